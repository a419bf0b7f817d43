// Gathers what the microphone hears into pieces of one length and hands them to the page.

registerProcessor(
  "microphone",
  class extends AudioWorkletProcessor {
    constructor({ processorOptions }) {
      super();
      this.piece = new Float32Array(processorOptions.piece);
      this.filled = 0;
    }

    process([[samples]]) {
      for (const sample of samples ?? []) {
        this.piece[this.filled++] = sample;
        if (this.filled === this.piece.length) {
          this.port.postMessage(this.piece);
          this.filled = 0;
        }
      }
      return true;
    }
  },
);
