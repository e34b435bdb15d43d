import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

const root = fileURLToPath(new URL(".", import.meta.url));
const outDir = join(root, "..", "dist");

// The sources the page is built from. The Go test that compares them with dist/sources.sha256 lists the same.
const sources = ["index.html", "package.json", "package-lock.json", "public", "src", "svelte.config.js", "tsconfig.json", "vite.config.ts"];

function files(path: string): string[] {
  try {
    return readdirSync(path).sort().flatMap((name) => files(join(path, name)));
  } catch {
    return [path];
  }
}

// Writes what the output was built from beside it, so that a test without Node can see whether it is up to date.
function sourceHash(): Plugin {
  return {
    name: "source-hash",
    closeBundle() {
      const lines = sources
        .flatMap((s) => files(join(root, s)))
        .map((f) => `${createHash("sha256").update(readFileSync(f)).digest("hex")}  ${relative(root, f).split(sep).join("/")}\n`);
      writeFileSync(join(outDir, "sources.sha256"), lines.join(""));
    },
  };
}

export default defineConfig({
  plugins: [svelte(), sourceHash()],
  base: "/",
  build: {
    outDir,
    emptyOutDir: true,
    target: "es2018",
    cssTarget: "chrome64",
    assetsInlineLimit: 0, // The content security policy allows no data: addresses.
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
  },
});
