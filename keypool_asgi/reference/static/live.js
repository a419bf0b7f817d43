// The live panel: a streaming session over /v3/ws, with audio in real time and every message shown.

import { base, token } from "./page.js";

const RATE = 16000; // samples per second, 16 bits each
const PIECE_MS = 100; // what one message holds; the service takes 50 to 1000 ms
const PIECE = (RATE * PIECE_MS) / 1000;
const CLOSING_MS = 5000; // how long the service may take for its closing figures
const MOST_MESSAGES = 500; // shown at a time

const find = (id) => document.getElementById(`live-${id}`);
const [form, source, file, start, stop] = ["form", "source", "file", "start", "stop"].map(find);
const [text, messages, count, status] = ["text", "messages", "count", "status"].map(find);

let session = null;

function say(state, sentence) {
  status.dataset.state = state;
  status.textContent = sentence;
}

function note(kind, content, began) {
  const item = document.createElement("li");
  item.className = kind;
  const time = document.createElement("span");
  time.className = "time";
  time.textContent = `${((performance.now() - began) / 1000).toFixed(2)} s`;
  item.append(time, content);
  messages.append(item);
  while (messages.childElementCount > MOST_MESSAGES) messages.firstElementChild.remove();
  messages.scrollTop = messages.scrollHeight;
}

function showTurn(turn) {
  const id = `turn-${turn.turn_order}`;
  let line = document.getElementById(id);
  if (!line) {
    line = document.createElement("div");
    line.id = id;
    text.append(line);
  }
  line.className = turn.end_of_turn ? "" : "partial";
  line.textContent = turn.transcript;
}

function inWords(samples) {
  const words = new Int16Array(samples.length);
  samples.forEach((sample, at) => (words[at] = Math.max(-1, Math.min(1, sample)) * 32767));
  return words;
}

/** Send a recording piece by piece, none before its time; returns a function that stops it. */
async function playRecording(data, send, ended) {
  const decoder = new OfflineAudioContext(1, 1, RATE);
  const samples = (await decoder.decodeAudioData(data)).getChannelData(0);
  const began = performance.now();
  let at = 0;
  const timer = setInterval(() => {
    const due = Math.floor((performance.now() - began) / PIECE_MS) * PIECE;
    for (; at < Math.min(due, samples.length); at += PIECE) {
      const piece = new Float32Array(PIECE);
      piece.set(samples.subarray(at, at + PIECE));
      send(inWords(piece));
    }
    if (at >= samples.length) {
      clearInterval(timer);
      ended();
    }
  }, PIECE_MS / 2);
  return () => clearInterval(timer);
}

/** Send what the microphone hears; returns a function that stops it. */
async function listen(send) {
  if (!navigator.mediaDevices) throw new Error("Browsers give the microphone to pages over HTTPS only.");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true } });
  const context = new AudioContext({ sampleRate: RATE });
  await context.audioWorklet.addModule(new URL("microphone.js", import.meta.url));
  const node = new AudioWorkletNode(context, "microphone", { processorOptions: { piece: PIECE } });
  node.port.onmessage = ({ data }) => send(inWords(data));
  context.createMediaStreamSource(stream).connect(node);
  return () => {
    stream.getTracks().forEach((track) => track.stop());
    context.close();
  };
}

async function recording() {
  if (source.value === "sample") return (await fetch(new URL("sample.wav", import.meta.url))).arrayBuffer();
  if (!file.files.length) throw new Error("Choose a file first.");
  return file.files[0].arrayBuffer();
}

class Session {
  constructor(data) {
    this.data = data;
    this.began = performance.now();
    this.pieces = 0;
    this.mute = () => {};
    this.ending = false;
    const url = `${base.replace(/^http/, "ws")}/v3/ws?sample_rate=${RATE}&format_turns=true&inactivity_timeout=30`;
    this.socket = new WebSocket(url, ["keypool", `keypool-token.${token()}`]);
    this.socket.onmessage = ({ data: message }) => this.receive(message);
    this.socket.onclose = (event) => this.closed(event);
  }

  receive(message) {
    note("received", message, this.began);
    count.textContent = `(${messages.childElementCount})`;
    const value = JSON.parse(message);
    if (value.type === "Begin") this.speak();
    if (value.type === "Turn") showTurn(value);
    if (value.type === "Error") this.error = value.error;
  }

  async speak() {
    say("open", "Connected");
    const send = (words) => this.send(words);
    try {
      this.mute = this.data ? await playRecording(this.data, send, () => this.end()) : await listen(send);
      if (this.ending) this.hush();
    } catch (error) {
      this.error = error.message;
      this.end();
    }
  }

  send(words) {
    if (this.ending || this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(words);
    this.pieces += 1;
    say("open", `Connected, ${((this.pieces * PIECE_MS) / 1000).toFixed(1)} s of audio sent`);
  }

  end() {
    if (this.ending) return;
    this.ending = true;
    this.hush();
    if (this.socket.readyState === WebSocket.OPEN) {
      this.socket.send('{"type":"Terminate"}');
      note("sent", 'sent: {"type":"Terminate"}', this.began);
    }
    setTimeout(() => this.socket.close(1000), CLOSING_MS);
  }

  /** Stop the audio, once. */
  hush() {
    this.mute();
    this.mute = () => {};
  }

  closed({ code, reason }) {
    this.ending = true;
    this.hush();
    const why = this.error ?? reason;
    say(code === 1000 && !this.error ? "closed" : "failed", `Closed with ${code}${why ? `: ${why}` : ""}`);
    busy(false);
    session = null;
  }
}

function busy(is) {
  start.disabled = source.disabled = file.disabled = is;
  stop.disabled = !is;
}

source.addEventListener("change", () => (file.hidden = source.value !== "file"));
stop.addEventListener("click", () => session?.end());
addEventListener("pagehide", () => session?.end());
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!token()) return say("failed", "Enter your team token at the top of the page first.");
  busy(true);
  text.replaceChildren();
  messages.replaceChildren();
  count.textContent = "";
  say("opening", "Connecting…");
  try {
    session = new Session(source.value === "microphone" ? null : await recording());
  } catch (error) {
    const sentence = error.name === "SyntaxError" ? "This token cannot be sent by a browser." : error.message;
    say("failed", sentence);
    busy(false);
  }
});
