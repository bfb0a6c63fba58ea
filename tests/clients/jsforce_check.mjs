// What a program that uses jsforce 3 does, step by step. Prints one JSON object: step -> value or {error}.
import { createRequire } from 'node:module';

const require = createRequire(process.env.JSFORCE_FOLDER + '/');
const jsforce = require('jsforce');
const { ORG_URL, CLIENT_ID, CLIENT_SECRET, ORG_USERNAME, ORG_PASSWORD } = process.env;

const results = {};
async function step(name, work) {
  try {
    results[name] = await work();
  } catch (error) {
    results[name] = { error: `${error.name}: ${error.errorCode ?? ''} ${error.message}`, stack: String(error.stack).slice(0, 600) };
  }
}

const conn = new jsforce.Connection({
  version: '60.0',
  oauth2: { loginUrl: ORG_URL, clientId: CLIENT_ID, clientSecret: CLIENT_SECRET, redirectUri: 'http://localhost:1717/OauthRedirect' },
});

await step('login', async () => { const user = await conn.login(ORG_USERNAME, ORG_PASSWORD); return Boolean(user.id && user.organizationId); });
await step('identity', async () => (await conn.identity()).username);
await step('limits', async () => (await conn.limits()).DailyApiRequests.Max > 0);
await step('describeGlobal', async () => (await conn.describeGlobal()).sobjects.some((o) => o.name === 'Account'));
await step('describe', async () => (await conn.sobject('Account').describe()).fields.some((f) => f.name === 'Name'));
await step('query', async () => (await conn.query('SELECT Id, Name FROM Account LIMIT 3')).records.length);
await step('autoFetch', async () => (await conn.query('SELECT Id FROM Contact', { autoFetch: true, maxFetch: 100000 })).records.length);
await step('find', async () => (await conn.sobject('Account').find({ Name: { $like: '%' } }, 'Id, Name').limit(2)).length);
await step('children', async () => {
  const rows = await conn.sobject('Account').select('Id').include('Contacts').select('Id').limit(2).end().limit(2).execute();
  return rows.length;
});
await step('count', async () => (await conn.query('SELECT COUNT() FROM Account')).totalSize >= 250);

let id;
await step('create', async () => { const made = await conn.sobject('Account').create({ Name: 'jsforce one' }); id = made.id; return made.success; });
await step('retrieve', async () => (await conn.sobject('Account').retrieve(id)).Name);
await step('update', async () => (await conn.sobject('Account').update({ Id: id, Phone: '1' })).success);
await step('createMany', async () => {
  const made = await conn.sobject('Account').create([{ Name: 'many 1' }, { Phone: 'no name' }]);
  return made.map((r) => r.success);
});
await step('createManyRecursive', async () => {
  const rows = Array.from({ length: 450 }, (_, n) => ({ Name: `bulky ${n}` }));
  return (await conn.sobject('Account').create(rows, { allowRecursive: true })).filter((r) => r.success).length;
});
await step('upsert', async () => (await conn.sobject('Account').upsert({ Name: 'keyed', External_Key__c: 'js-1' }, 'External_Key__c')).success);
await step('upsertMany', async () => {
  const made = await conn.sobject('Account').upsert([{ Name: 'again', External_Key__c: 'js-1' }, { Name: 'new', External_Key__c: 'js-2' }], 'External_Key__c');
  return made.map((r) => r.created);
});
await step('updated', async () => {
  const ids = await conn.sobject('Account').updated(new Date(Date.now() - 3600e3), new Date(Date.now() + 120e3));
  return ids.ids.includes(id);
});
await step('destroy', async () => (await conn.sobject('Account').destroy(id)).success);
await step('deleted', async () => {
  const found = await conn.sobject('Account').deleted(new Date(Date.now() - 3600e3), new Date(Date.now() + 120e3));
  return found.deletedRecords.some((r) => r.id === id);
});
await step('scanAll', async () => (await conn.query(`SELECT Id FROM Account WHERE Id = '${id}'`, { scanAll: true })).totalSize);
await step('queryError', async () => {
  try { await conn.query('SELECT Nope FROM Account'); return 'no error'; } catch (error) { return error.errorCode; }
});

conn.bulk2.pollInterval = 100;
conn.bulk2.pollTimeout = 60000;
await step('bulk2Query', async () => {
  const stream = await conn.bulk2.query('SELECT Id, Name FROM Contact', { pollInterval: 100, pollTimeout: 60000 });
  return (await stream.toArray()).length;
});
await step('bulk2Insert', async () => {
  const done = await conn.bulk2.loadAndWaitForResults({ object: 'Account', operation: 'insert', input: [{ Name: 'b2 1', Phone: '1' }, { Name: 'b2 2', Phone: null }, { Name: '', Phone: '3' }], pollInterval: 100, pollTimeout: 60000 });
  return [done.successfulResults.length, done.failedResults.length, done.unprocessedRecords.length];
});
conn.bulk.pollInterval = 100;
conn.bulk.pollTimeout = 60000;
await step('bulk1Insert', async () => {
  const rets = await conn.bulk.load('Account', 'insert', [{ Name: 'b1 1' }, { Name: 'b1 2' }]);
  return rets.map((r) => r.success);
});
await step('bulk1Query', async () => (await (await conn.bulk.query('SELECT Id FROM Contact')).toArray()).length);
await step('composite', async () => {
  const version = conn.version;
  const answer = await conn.requestPost('/composite', { compositeRequest: [
    { method: 'POST', url: `/services/data/v${version}/sobjects/Account`, referenceId: 'a', body: { Name: 'composed' } },
    { method: 'GET', url: `/services/data/v${version}/sobjects/Account/@{a.id}`, referenceId: 'b' }] });
  return answer.compositeResponse.map((r) => r.httpStatusCode);
});
await step('expiredIsRefreshed', async () => {
  const other = new jsforce.Connection({ version: '60.0', instanceUrl: ORG_URL, accessToken: '00D000000000000!stale', refreshFn: (_, done) => done(null, conn.accessToken) });
  return (await other.query('SELECT Id FROM Account LIMIT 1')).records.length;
});
console.log(JSON.stringify(results));
