// Two sources of 16-bit PCM in pieces of 100 ms. A source has `rate`, `start(onSamples, onEnd)` and `stop()`.

const PIECE_MS = 100;
const WAV_HEADER_BYTES = 44;

// A WAV file of 16-bit mono PCM, played in real time.
export async function recording(file) {
  const data = await (await fetch(file)).arrayBuffer();
  const rate = new DataView(data).getUint32(24, true);
  const piece = (2 * rate * PIECE_MS) / 1000;
  let at = WAV_HEADER_BYTES;
  let timer = null;
  const stop = () => clearInterval(timer);
  return {
    rate,
    stop,
    start(onSamples, onEnd) {
      timer = setInterval(() => {
        if (data.byteLength - at < piece) {
          stop();
          onEnd();
          return;
        }
        onSamples(data.slice(at, at + piece));
        at += piece;
      }, PIECE_MS);
    },
  };
}

// The microphone, at whatever rate the sound hardware has.
export async function microphone() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true } });
  const context = new AudioContext();
  await context.audioWorklet.addModule("pieces.js");
  const pieces = new AudioWorkletNode(context, "pieces", { processorOptions: { milliseconds: PIECE_MS } });
  context.createMediaStreamSource(stream).connect(pieces);
  return {
    rate: context.sampleRate,
    start(onSamples) {
      pieces.port.onmessage = ({ data }) => onSamples(data);
    },
    stop() {
      stream.getTracks().forEach((track) => track.stop());
      if (context.state !== "closed") context.close();
    },
  };
}
