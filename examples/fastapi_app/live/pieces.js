// Runs beside the page, where sound comes in blocks of 128 samples: collects them into pieces of 16-bit PCM.

class Pieces extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.piece = new Int16Array(Math.round((sampleRate * processorOptions.milliseconds) / 1000));
    this.filled = 0;
  }

  process([[samples]]) {
    for (const sample of samples ?? []) {
      this.piece[this.filled++] = Math.max(-1, Math.min(1, sample)) * 0x7fff;
      if (this.filled === this.piece.length) {
        this.port.postMessage(this.piece.buffer.slice(0));
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("pieces", Pieces);
