// CONFIG as the options of a client: the same words in camelCase, with the keys themselves where CONFIG names secrets.

/** @param {object} config with `endpoints`, `models` and `policies` */
export function optionsOf({ endpoints, models, policies }, secrets = {}) {
  return {
    endpoints: endpoints.map(({ base_url: baseURL, api_key_secret: secret, ...more }) => ({
      ...inCamelCase(more), baseURL, ...(secret && { apiKey: secrets[secret] }),
    })),
    models: inCamelCase(models),
    // Their names are nobody's words but their own.
    policies: Object.fromEntries(Object.entries(policies).map(([name, policy]) => [name, inCamelCase(policy)])),
  };
}

function inCamelCase(value) {
  if (Array.isArray(value)) return value.map(inCamelCase);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [
    name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase()), inCamelCase(inner),
  ]));
}
