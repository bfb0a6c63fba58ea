// What programs do with nforce and with node-salesforce; prints one JSON object with the outcomes.
const { createRequire } = require("node:module");
const load = createRequire(process.env.FOLDER + "/package.json");
const { ORG_URL: url, ORG_USERNAME: username, ORG_PASSWORD: password } = process.env;

async function withNforce() {
  const nforce = load("nforce");
  const org = nforce.createConnection({
    clientId: process.env.CLIENT_ID, clientSecret: process.env.CLIENT_SECRET, redirectUri: "http://localhost:3000/cb",
    mode: "single", loginUri: url + "/services/oauth2/token", apiVersion: "v68.0",
  });
  await org.authenticate({ username, password });
  const account = nforce.createSObject("Account", { Name: "nforce" });
  const { id } = await org.insert({ sobject: account });
  await org.update({ sobject: nforce.createSObject("Account", { Id: id, Site: "here" }) });
  const keyed = nforce.createSObject("Account", { Name: "keyed" });
  keyed.setExternalId("External_Key__c", "nforce-1");
  const done = { site: (await org.getRecord({ type: "Account", id })).get("site") };
  done.upserted = (await org.upsert({ sobject: keyed })).success;
  done.queried = (await org.query({ query: "SELECT Id FROM Contact LIMIT 300", fetchAll: true })).records.length;
  done.described = (await org.getDescribe({ type: "Account" })).name;
  const attachment = { fileName: "t.txt", body: Buffer.from("hello") };
  const kept = await org.insert({ sobject: nforce.createSObject("Attachment", { Name: "t", ParentId: id, attachment }) });
  done.body = String(await org.getAttachmentBody({ id: kept.id }));
  return done;
}

async function withNodeSalesforce() {
  const conn = new (load("node-salesforce").Connection)({ loginUrl: url, version: "41.0" });
  const call = (work) => new Promise((resolve, reject) => work((error, value) => (error ? reject(error) : resolve(value))));
  await call((done) => conn.login(username, password, done));
  const account = conn.sobject("Account");
  const made = await call((done) => account.create({ Name: "node" }, done));
  return {
    created: made.success,
    updated: (await call((done) => account.update({ Id: made.id, Site: "x" }, done))).success,
    queried: (await call((done) => conn.query("SELECT Id FROM Contact LIMIT 300", done))).records.length,
    deleted: (await call((done) => account.del(made.id, done))).success,
  };
}

async function main() {
  console.log(JSON.stringify({ nforce: await withNforce(), "node-salesforce": await withNodeSalesforce() }));
}

main().catch((error) => { console.error(error); process.exitCode = 1; });
