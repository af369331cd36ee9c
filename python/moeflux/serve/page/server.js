// What is asked of the server: what it serves, how it does, and answers as they are written.

export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

function headers(key) {
  return key ? { "content-type": "application/json", authorization: `Bearer ${key}` } : { "content-type": "application/json" };
}

// The JSON of a GET. Fails where the server is gone or refuses.
export async function get(path, key) {
  const response = await reached(fetch(path, { headers: headers(key) }));
  const body = await response.json().catch(() => null);
  if (!response.ok && path !== "health") throw new Failure(reason(body, response.status), response.status);
  return body;
}

// The chunks of a chat, as they come. Fails where the stream ends before its end.
export async function* chat(body, key, signal) {
  const response = await reached(
    fetch("v1/chat/completions", { method: "POST", headers: headers(key), body: JSON.stringify(body), signal }));
  if (!response.ok) throw new Failure(reason(await response.json().catch(() => null), response.status), response.status);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reached(reader.read());
    if (done) throw new Failure("the server went away before the answer ended");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const line = event.split("\n").find((one) => one.startsWith("data: "));
      if (!line) continue; // a comment that only shows life
      if (line === "data: [DONE]") return;
      const chunk = JSON.parse(line.slice(6));
      if (chunk.error) throw new Failure(chunk.error.message);
      yield chunk;
    }
  }
}

async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("the server cannot be reached");
  }
}

function reason(body, status) {
  return body?.error?.message ?? `the server answered with status ${status}`;
}
