// What a server has, beside answers: its list of models.

import { offered } from '../findings.mjs';

export const routes = [
  {
    name: 'models: the list names the model',
    async run(server, findings) {
      const answer = await server.get('/models');
      offered(answer);
      const { object, data } = findings.answered(answer);
      findings.same('object', object, 'list');
      if (!findings.list('data', data)) return;
      const names = data.map(({ id }) => id);
      findings.holds('data[].id', names, 'the model among them', names.includes(server.model));
      findings.same('data[0].object', data[0].object, 'model');
    },
  },
  {
    name: 'models: one by its name',
    async run(server, findings) {
      const answer = await server.get(`/models/${encodeURIComponent(server.model)}`);
      offered(answer);
      findings.same('id', findings.answered(answer).id, server.model);
    },
  },
];
