// An authorization server (oidc-provider) in which clients register themselves (RFC 7591).
//
//   node server.mjs RESOURCE
//
// Prints `ready ISSUER` once it listens. Access tokens are JWTs for RESOURCE (RFC 8707): the first
// one is good for a minute, the others for an hour.
import { once } from 'node:events';
import { createServer } from 'node:http';

import { Provider, errors } from 'oidc-provider';

const [resource] = process.argv.slice(2);
const scopes = ['tools:read', 'tools:call', 'tools:admin'];

const server = createServer();
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const issuer = `http://127.0.0.1:${server.address().port}`;

let issued = 0;
const provider = new Provider(issuer, {
  scopes,
  cookies: { keys: ['a key of a test'] },
  features: {
    registration: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo(_ctx, indicator) {
        if (indicator !== resource) throw new errors.InvalidTarget();
        return {
          scope: scopes.join(' '),
          audience: resource,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'RS256' } },
        };
      },
    },
  },
  ttl: {
    AccessToken: () => (issued++ === 0 ? 60 : 3600),
    Grant: 3600,
    Interaction: 3600,
    Session: 3600,
  },
  findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
});
server.on('request', provider.callback());
console.log(`ready ${issuer}`);
