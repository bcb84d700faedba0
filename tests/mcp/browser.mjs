// The user and the browser: signs in and consents to what an authorization URL asks for.

const cookies = new Map();

async function request(url, init = {}) {
  const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
  const response = await fetch(url, { ...init, headers: { ...init.headers, cookie }, redirect: 'manual' });
  for (const line of response.headers.getSetCookie()) {
    const [name, value] = line.split(';', 1)[0].split(/=(.*)/s);
    if (value) cookies.set(name, value);
    else cookies.delete(name);
  }
  return response;
}

/** Returns the parameters with which the browser comes back to the client. */
export async function authorize(url, redirectUri) {
  let response = await request(url);
  for (let step = 0; step < 20; step += 1) {
    const location = response.headers.get('location');
    if (location) {
      url = new URL(location, url);
      if (url.href.startsWith(redirectUri)) return url.searchParams;
      response = await request(url);
      continue;
    }
    const page = await response.text();
    const action = /<form[^>]* action="([^"]+)"/.exec(page)?.[1];
    const prompt = /name="prompt" value="([^"]+)"/.exec(page)?.[1];
    if (!action || !prompt) throw new Error(`${response.status} from ${url}: ${page}`);
    url = new URL(action.replaceAll('&amp;', '&'), url);
    const body = new URLSearchParams({ prompt, login: 'ann', password: 'any' });
    response = await request(url, { method: 'POST', body });
  }
  throw new Error(`too many steps after ${url}`);
}
