/**
 * Hands a data point to Analytics Engine, which takes it without an answer. Its texts come as one, its index first.
 * @param {{ METRICS: AnalyticsEngineDataset }} env
 * @param {string} texts with `SEPARATOR` of http.js between them
 * @param {Float64Array} doubles
 */
export function writePoint(env, texts, doubles) {
  const [index, ...blobs] = texts.split('\0');
  env.METRICS.writeDataPoint({ indexes: [index], blobs, doubles: [...doubles] });
}
