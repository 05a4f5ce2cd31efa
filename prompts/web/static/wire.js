// Requests and the stream of news. The key is in this tab's own storage; the cookie no script sees.

const KEY = "arbiter-key";

export class Refused extends Error {}

async function post(path, body) {
  const key = sessionStorage.getItem(KEY) || "";
  return fetch(`/api/${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-arbiter-key": key },
    body: JSON.stringify(body),
    credentials: "same-origin",
    cache: "no-store",
  });
}

/** Ask for something. Throws Refused with the console's own words. */
export async function ask(path, body = {}) {
  let reply;
  try {
    reply = await post(path, body);
  } catch {
    throw new Refused("the console does not answer: is `arbiter prompt web` still running?");
  }
  const value = await reply.json();
  if (!reply.ok) throw new Refused(value.error);
  return value;
}

/** The token of the address, if there is one, becomes a cookie and a key; then it is not shown. */
export async function login() {
  const token = location.hash.slice(1);
  if (!/^[\w-]{40,}$/.test(token)) return;
  history.replaceState(null, "", "/#questions");
  const { key } = await ask("login", { token });
  sessionStorage.setItem(KEY, key);
}

/** Every line of news, until the stream ends. Throws Refused where we may not. */
export async function* news() {
  const reply = await post("news", {});
  if (!reply.ok) throw new Refused((await reply.json()).error);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) yield JSON.parse(line);
  }
}
