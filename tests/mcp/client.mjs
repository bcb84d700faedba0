// A client of MCP (the TypeScript SDK), as applications write it. It knows the URL of the MCP server
// and nothing else.
//
//   node client.mjs URL
//
// Logs in, calls a tool, loses its token in several ways, and prints what happened as JSON.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

import { authorize } from './browser.mjs';

const url = new URL(process.argv[2]);
const redirectUrl = 'http://127.0.0.1/callback';
const stored = {};
const report = { registrations: [], steps: [] };
let step;

const provider = {
  redirectUrl,
  clientMetadata: {
    client_name: 'a client of a test',
    redirect_uris: [redirectUrl],
    grant_types: ['authorization_code'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  },
  clientInformation: () => stored.client,
  saveClientInformation(client) {
    stored.client = client;
    if (client.client_id_issued_at) report.registrations.push(client.scope);
  },
  tokens: () => stored.tokens,
  saveTokens(tokens) { stored.tokens = tokens; },
  codeVerifier: () => stored.verifier,
  saveCodeVerifier(verifier) { stored.verifier = verifier; },
  redirectToAuthorization(target) { stored.target = target; },
};

/** The `fetch` of the SDK, which notes the challenges. */
async function noting(target, init) {
  const response = await fetch(target, init);
  if (response.status === 401) step.challenge = response.headers.get('www-authenticate');
  return response;
}

function connection() {
  return new StreamableHTTPClientTransport(url, { authProvider: provider, fetch: noting });
}

/** Does what needs a token. If that fails, logs in and returns whether that has worked. */
async function loggedIn(transport, work) {
  try {
    step.text = await work();
    step.result = 'not asked';
    return true;
  } catch (error) {
    if (!(error instanceof UnauthorizedError)) throw error;
  }
  step.requested = stored.target.searchParams.get('scope');
  const answer = await authorize(stored.target, redirectUrl);
  if (answer.get('error')) {
    step.result = answer.get('error');
    return false;
  }
  await transport.finishAuth(answer.get('code'));
  step.granted = stored.tokens.scope;
  return true;
}

async function call(client) {
  const { content } = await client.callTool({ name: 'whoami', arguments: {} });
  return content[0].text;
}

async function run() {
  step = { name: 'first', result: 'ok' };
  report.steps.push(step);
  let client = new Client({ name: 'test', version: '1.0.0' });
  let transport = connection();
  if (!(await loggedIn(transport, () => client.connect(transport)))) return;
  client = new Client({ name: 'test', version: '1.0.0' });
  transport = connection();
  await client.connect(transport);
  step.text = await call(client);

  const losses = {
    // The clock of the API moves on by ten minutes.
    expired: () => fetch(new URL('/clock', url), { method: 'POST' }),
    // Another signature than that of the issuer.
    invalid() {
      const [header, claims] = stored.tokens.access_token.split('.');
      stored.tokens.access_token = `${header}.${claims}.${'A'.repeat(342)}`;
    },
    // Not what this API calls a token.
    opaque() { stored.tokens.access_token = 'mF_9.B5f-4.1JqM'; },
    missing() { stored.tokens = undefined; },
  };
  for (const [name, lose] of Object.entries(losses)) {
    step = { name, result: 'ok' };
    report.steps.push(step);
    await lose();
    if (!(await loggedIn(transport, () => call(client)))) return;
    step.text = await call(client);
  }
  await client.close();
}

await run();
console.log(JSON.stringify(report));
