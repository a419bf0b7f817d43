// A live session from a page: sound up, text down. AssemblyAI takes messages of 50 to 1000 ms, not faster than real time.

import { microphone, recording } from "./sound.js";

const POOL = new URL("/v1/assemblyai/", document.baseURI);
const form = document.getElementById("form");
const status = document.getElementById("status");
const text = document.getElementById("text");
const messages = document.getElementById("messages");
const start = document.getElementById("start");
const stop = document.getElementById("stop");

// A link may bring the token along, behind the "#" that is never sent to a server.
form.token.value = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";

let live = null;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  live = begin(form.token.value.trim(), form.source.value, form.way.value);
});
stop.addEventListener("click", () => live?.then((session) => session?.end()));

async function begin(token, source, way) {
  text.replaceChildren();
  messages.textContent = "";
  show("Connecting ...");
  switchTo(true);
  try {
    const sound = source === "microphone" ? await microphone() : await recording("recording.wav");
    return run(await open(token, way, sound.rate), sound);
  } catch (error) {
    show(error.message, true);
    switchTo(false);
    return null;
  }
}

// Open a socket. A page cannot set header fields on it: the token travels as a subprotocol, or a temporary one in the URL.
async function open(token, way, rate) {
  const url = new URL(`v3/ws?sample_rate=${rate}&format_turns=true`, POOL);
  url.protocol = url.protocol.replace("http", "ws");
  if (way === "subprotocol") {
    return new WebSocket(url, ["keypool", `keypool-token.${token}`]);
  }
  const answer = await fetch(new URL("v3/token?expires_in_seconds=60", POOL), { headers: { Authorization: token } });
  const told = await answer.json();
  if (!answer.ok) throw new Error(`${told.error} (HTTP ${answer.status})`);
  url.searchParams.set("token", told.token);
  return new WebSocket(url);
}

function run(socket, sound) {
  const turns = new Map();
  let refused = "";
  const end = () => {
    sound.stop();
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "Terminate" }));
    else socket.close();
  };

  socket.onmessage = ({ data }) => {
    messages.textContent += `${data}\n`;
    const message = JSON.parse(data);
    if (message.type === "Begin") {
      show("Listening ...");
      sound.start((samples) => socket.readyState === WebSocket.OPEN && socket.send(samples), end);
    } else if (message.type === "Turn") {
      write(turns, message);
    } else if (message.type === "Error") {
      refused = message.error;
    }
  };
  socket.onclose = ({ code, reason }) => {
    sound.stop();
    switchTo(false);
    if (code === 1000) show("The session has ended.");
    else show(`${refused || reason || "The connection was lost."} (close code ${code})`, true);
  };
  return { end };
}

// A turn is told again and again while it goes on, each time with more of its words.
function write(turns, turn) {
  if (!turns.has(turn.turn_order)) turns.set(turn.turn_order, text.appendChild(document.createElement("p")));
  const paragraph = turns.get(turn.turn_order);
  paragraph.textContent = turn.transcript;
  paragraph.classList.toggle("partial", !turn.end_of_turn);
}

function show(words, wrong = false) {
  status.textContent = words;
  status.classList.toggle("wrong", wrong);
}

function switchTo(running) {
  start.disabled = running;
  stop.disabled = !running;
}
