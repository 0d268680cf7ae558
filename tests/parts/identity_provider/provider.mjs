// A real OpenID Connect provider for the tests: `node provider.mjs config.json`, where the file says
// {issuer, port, clients, accounts}. `accounts` is a file that is read at each sign-in: {login: claims}.

import { generateKeyPairSync, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { Provider } from "oidc-provider";

const read = (path) => JSON.parse(readFileSync(path, "utf8"));
const { issuer, port, clients, accounts } = read(process.argv[2]);

// Other keys at each start: who restarts it has rotated them.
const key = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });

const provider = new Provider(issuer, {
  clients,
  jwks: { keys: [{ ...key, kid: randomUUID(), use: "sig", alg: "RS256" }] },
  cookies: { keys: [randomUUID()] },
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name", "groups"] },
  findAccount: (_, login) => {
    const claims = read(accounts)[login];
    return claims && { accountId: login, claims: () => ({ sub: login, ...claims }) };
  },
});

provider.listen(port, "127.0.0.1", () => console.log("ready"));
