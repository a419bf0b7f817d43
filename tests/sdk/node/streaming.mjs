// Plays one live session on the SDK as a web backend would. The plan comes as JSON on stdin; what the SDK's user was
// told goes out as JSON on stdout.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { AssemblyAI } from "assemblyai";

const plan = JSON.parse(readFileSync(0, "utf8"));
const heard = { messages: [], errors: [], seconds: 0 };

// The outcome has stdout for itself.
console.log = console.info = console.error;

function noteError(error) {
  heard.errors.push({ text: error.message, code: error.code ?? null });
}

function transcriberFor(token) {
  const client = new AssemblyAI({ apiKey: plan.credential, streamingBaseUrl: plan.base });
  const transcriber = client.streaming.transcriber({
    websocketBaseUrl: plan.socket,
    sampleRate: 16000,
    speechModel: "universal-streaming-english",
    formatTurns: true,
    keytermsPrompt: ["a", "b"],
    ...(token ? { token } : {}),
    ...plan.settings,
  });
  transcriber.on("turn", (turn) => heard.messages.push(turn));
  transcriber.on("error", noteError);
  transcriber.on("close", (code, reason) => {
    if (code !== 1000) noteError({ message: reason, code });
  });
  return transcriber;
}

async function connected(transcriber) {
  const began = performance.now();
  try {
    heard.messages.push(await transcriber.connect());
    return true;
  } catch (error) {
    noteError(error);
    return false;
  } finally {
    heard.seconds = (performance.now() - began) / 1000;
  }
}

async function play() {
  const minter = new AssemblyAI({ apiKey: plan.credential, streamingBaseUrl: plan.base }).streaming;
  const token = plan.mint ? await minter.createTemporaryToken(plan.mint) : plan.temporary && plan.credential;
  const transcriber = transcriberFor(token);
  if (!(await connected(transcriber))) return;
  for (const chunk of plan.chunks) {
    await sleep(plan.pace);
    transcriber.sendAudio(Buffer.from(chunk, "hex"));
  }
  transcriber.updateConfiguration({ max_turn_silence: 500 });
  transcriber.forceEndpoint();
  transcriber.keepAlive();
  const asked = performance.now();
  await transcriber.close();
  // The SDK tells nobody of a Termination; it waits for it, for five seconds at most.
  if (performance.now() - asked < 4500) heard.messages.push({ type: "Termination" });
}

await play().catch(noteError);
process.stdout.write(JSON.stringify(heard));
