// Reads calls as JSON lines, makes them on the SDK as any app would, and prints each outcome as a JSON line:
//   {"options": {"apiKey": ..., "baseUrl": ...}, "method": "transcripts.list", "args": [{"limit": 2}]}
// The method "ai.transcribe" is the AI SDK's, with AssemblyAI as its provider.
import { createReadStream, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { createAssemblyAI } from "@ai-sdk/assemblyai";
import { experimental_transcribe as transcribe } from "ai";
import { AssemblyAI } from "assemblyai";

// The outcomes have stdout for themselves.
console.log = console.info = console.error;

function revived(value) {
  if (Array.isArray(value)) return value.map(revived);
  if (value === null || typeof value !== "object") return value;
  if ("$buffer" in value) return readFileSync(value.$buffer);
  if ("$stream" in value) return createReadStream(value.$stream);
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, revived(each)]));
}

// The AI SDK has no setting for the host: an app that needs another one gives it a fetch.
function transcribeWithAi({ baseUrl, apiKey }, audio) {
  const fetchElsewhere = (url, init) => fetch(String(url).replace("https://api.assemblyai.com", baseUrl), init);
  const provider = createAssemblyAI({ apiKey, fetch: fetchElsewhere });
  return transcribe({ model: provider.transcription("universal-3-5-pro"), audio, maxRetries: 0 });
}

async function made({ options, method, args }) {
  const given = revived(args);
  if (method === "ai.transcribe") {
    const { text, durationInSeconds, language } = await transcribeWithAi(options, ...given);
    return { text, durationInSeconds, language };
  }
  const path = method.split(".");
  const name = path.pop();
  const service = path.reduce((object, each) => object[each], new AssemblyAI(options));
  return service[name](...given);
}

function told(error) {
  const fields = Object.fromEntries(Object.entries(error).filter(([, value]) => typeof value !== "object"));
  return { error: error.message, fields };
}

for await (const line of createInterface({ input: process.stdin })) {
  const outcome = await made(JSON.parse(line)).then((result) => ({ result: result ?? null }), told);
  process.stdout.write(JSON.stringify(outcome) + "\n");
}
