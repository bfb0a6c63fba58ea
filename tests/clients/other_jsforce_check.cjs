// What programs do with jsforce 1 and with @jsforce/jsforce-node; prints one JSON object with the outcomes.
const { createRequire } = require("node:module");
const jsforce = createRequire(process.env.JSFORCE_FOLDER + "/package.json")(process.env.JSFORCE_NAME);

const rows = (stream) =>
  new Promise((resolve, reject) => {
    const found = [];
    stream.on("record", (row) => found.push(row)).on("end", () => resolve(found)).on("error", reject);
  });

async function main() {
  const url = process.env.ORG_URL;
  const conn = new jsforce.Connection({ loginUrl: url, version: process.env.API_VERSION });
  await conn.login(process.env.ORG_USERNAME, process.env.ORG_PASSWORD); // SOAP, as no app is named
  const account = conn.sobject("Account");
  const made = await account.create([{ Name: "One" }, { Name: "Two" }, { Name: "Three" }]);
  const ids = made.map((entry) => entry.id);
  const done = { created: made.map((entry) => entry.success) };
  done.upserted = (await account.upsert({ Name: "Keyed", External_Key__c: process.env.API_VERSION }, "External_Key__c")).success;
  done.found = (await conn.search("FIND {Keyed} IN NAME FIELDS RETURNING Account(Id)")).searchRecords.length > 0;
  done.layouts = (await account.layouts()).layouts.length;
  done.compactLayouts = (await account.compactLayouts()).compactLayouts.length;
  done.listviews = (await account.listviews()).size;
  done.quickActions = (await account.quickActions()).length;
  done.recent = (await conn.recent(5)).length > 2;
  done.tabs = (await conn.tabs()).length > 3;
  done.theme = (await conn.theme()).themeItems.length > 3;
  done.tooling = (await conn.tooling.query("SELECT QualifiedApiName FROM EntityDefinition WHERE KeyPrefix = '001'")).records[0].QualifiedApiName;
  done.explained = (await conn.query("SELECT Id FROM Account").explain()).plans[0].sobjectType;
  await new Promise((resolve, reject) => {
    const batch = conn.bulk.createJob("Contact", "insert").createBatch();
    batch.execute([{ LastName: "Bulk" }, { LastName: "Batch" }]);
    batch.on("queue", () => batch.poll(100, 60000)).on("error", reject).on("response", (result) => {
      done.bulk = result.map((entry) => entry.success);
      resolve();
    });
  });
  done.bulkQuery = (await rows(await conn.bulk.query("SELECT Id FROM Contact LIMIT 300"))).length;
  const merged = await conn.soap.merge({ masterRecord: { type: "Account", Id: ids[0] }, recordToMergeIds: [ids[1]] });
  done.merged = String([merged].flat()[0].success);
  await account.destroy(ids[2]);
  const emptied = await conn.soap.emptyRecycleBin([ids[2]]);
  done.emptied = String([emptied].flat()[0].success);
  done.left = (await conn.query(`SELECT Id FROM Account WHERE Id IN ('${ids.join("','")}')`, { scanAll: true })).totalSize;
  await conn.logout();
  console.log(JSON.stringify(done));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
