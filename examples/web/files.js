// Files of this page: fetched with progress, checked, and what is wrong with them said in one line.

const HERE = new URL(".", import.meta.url);
const FOLDER = new URL("model/", HERE);
export const VENDOR = new URL("vendor/", HERE);

export async function library(name) {
  try {
    return await import(new URL(name, VENDOR));
  } catch {
    throw new Error(`vendor/${name} is missing or cannot be read; run scripts/web again`);
  }
}

// The answer to a request for a file, with its path and, where the server states it, its size.
export async function fetched(url) {
  const name = url.href.slice(HERE.href.length);
  const response = await fetch(url, { cache: "no-cache" }).catch(() => {
    throw new Error(`${name} could not be fetched; is the server still running?`);
  });
  if (!response.ok) throw new Error(`${name} is missing (HTTP ${response.status}); run scripts/web again`);
  // A compressed answer states its compressed size: then this file is left out of the total.
  const size = response.headers.has("Content-Encoding") ? 0 : Number(response.headers.get("Content-Length"));
  return Object.assign(response, { path: name, size });
}

// All bytes of an answer; progress(bytes so far) with every piece.
export async function body(response, progress) {
  const parts = [];
  let length = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(() => {
      throw new Error(`${response.path} broke off after ${length} bytes; is the server still running?`);
    });
    if (done) break;
    parts.push(value);
    length += value.length;
    progress(length);
  }
  const bytes = new Uint8Array(length);
  parts.reduce((offset, part) => (bytes.set(part, offset), offset + part.length), 0);
  return bytes;
}

// A file of model/, no other than q3.json lists it.
export async function modelFile(name, { bytes: size, sha256 }, progress) {
  const bytes = await body(await fetched(new URL(name, FOLDER)), progress);
  const damaged = (found) => new Error(`model/${name} is damaged: ${found}; copy or export the folder again`);
  if (bytes.length !== size) throw damaged(`${bytes.length} bytes, expected ${size}`);
  if (!self.crypto.subtle) return bytes; // browsers hash on https and on loopback only
  const digest = new Uint8Array(await self.crypto.subtle.digest("SHA-256", bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== sha256) throw damaged(`sha256 ${found.slice(0, 12)}…, expected ${sha256.slice(0, 12)}…`);
  return bytes;
}

export function parsed(bytes, name) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new Error(`model/${name} is damaged: not JSON; copy or export the folder again`);
  }
}

export async function manifestOfFolder() {
  return parsed(await body(await fetched(new URL("q3.json", FOLDER)), () => {}), "q3.json");
}
