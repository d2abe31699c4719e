// The Python that has OpenAI's client, for the examples in Python.

import { fileURLToPath } from 'node:url';
import { ensurePython } from '../../scripts/python.mjs';

const requirements = ['requirements.txt', 'constraints.txt'].map((name) => fileURLToPath(new URL(name, import.meta.url)));

/** 15 s, 60 MB, below .tools. Null where it cannot be had. */
export const ensureOpenai = () => ensurePython({ name: 'python-openai', requirements, what: "OpenAI's client for Python", usually: '15 s, once' });
