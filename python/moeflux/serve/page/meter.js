// Numbers of an answer, in words.

const UNITS = ["B", "kB", "MB", "GB", "TB"];

export function bytes(count) {
  const power = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), UNITS.length - 1);
  const value = count / 1000 ** power;
  return `${value.toFixed(value < 10 && power ? 1 : 0)} ${UNITS[power]}`;
}

export function seconds(count) {
  return `${count.toFixed(count < 10 ? 1 : 0)} s`;
}

// What an answer took, from the `timings` of its last chunk.
export function told(timings) {
  const { hits, misses, read_bytes: read, wait_ms: wait } = timings.moeflux;
  const looked = hits + misses;
  const parts = [
    `${timings.predicted_n} tokens, ${timings.predicted_per_second.toFixed(1)} tokens/s`,
    `prompt ${timings.prompt_n + timings.cache_n}` + (timings.cache_n ? ` (${timings.cache_n} remembered)` : "") + `, ${seconds(timings.prompt_ms / 1000)}`,
  ];
  if (timings.queue_ms >= 100) parts.push(`${seconds(timings.queue_ms / 1000)} in the queue`);
  if (looked) parts.push(`hit rate ${Math.round((100 * hits) / looked)} %`);
  parts.push(`${bytes(read)} read`, `${seconds(wait / 1000)} waiting for reads`);
  return parts.join(" · ");
}
