"""Run by the interpreter of a client's own environment: `other_python_check.py CLIENT`; prints one JSON object."""

import asyncio
import json
import os
import ssl
import sys


def salesforce_bulk() -> dict:
    """Bulk 1.0 in XML, after a SOAP log-in at login.salesforce.com (through the proxy)."""
    from salesforce_bulk import CsvDictsAdapter, SalesforceBulk

    bulk = SalesforceBulk(
        username=os.environ["ORG_USERNAME"], password=os.environ["ORG_PASSWORD"], security_token="", API_version="40.0"
    )
    job = bulk.create_insert_job("Account", contentType="CSV")
    batch = bulk.post_batch(job, CsvDictsAdapter(iter([{"Name": "One"}, {"Name": ""}])))
    bulk.close_job(job)
    bulk.wait_for_batch(job, batch, sleep_interval=0.2)
    done = {"inserted": [row.success for row in bulk.get_batch_results(batch)]}
    for kind in ("CSV", "JSON"):
        job = bulk.create_query_job("Contact", contentType=kind)
        batch = bulk.query(job, "SELECT Id, Name FROM Contact LIMIT 300", contentType=kind)
        bulk.close_job(job)
        bulk.wait_for_batch(job, batch, sleep_interval=0.2)
        (result,) = bulk.get_all_results_for_query_batch(batch)
        text = result.read().decode()
        done[kind] = len(json.loads(text)) if kind == "JSON" else text.count("\n") - 1
    return done


def aiosalesforce() -> dict:
    """REST, Batch and Composite over HTTP/1.1 of httpx; it takes My Domain hosts only."""
    return asyncio.run(_aiosalesforce())


async def _aiosalesforce() -> dict:
    import httpx
    from aiosalesforce import ClientCredentialsFlow, Salesforce

    trust = ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"])
    auth = ClientCredentialsFlow(client_id=os.environ["CLIENT_ID"], client_secret=os.environ["CLIENT_SECRET"])
    async with httpx.AsyncClient(verify=trust, proxy=os.environ["HTTPS_PROXY"], trust_env=False) as http:
        sf = Salesforce(http, "https://local-org.my.salesforce.com", auth=auth)
        account = await sf.sobject.create("Account", {"Name": "async"})
        await sf.sobject.update("Account", account, {"Site": "here"})
        done = {"site": (await sf.sobject.get("Account", account))["Site"]}
        done["created"] = (await sf.sobject.upsert("Account", "async-1", "External_Key__c", {"Name": "keyed"})).created
        done["queried"] = len([row async for row in sf.query("SELECT Id FROM Contact")])
        async with sf.composite.batch() as batch:
            found = batch.query("SELECT Id FROM Account LIMIT 1")
            made = batch.sobject.create("Account", {"Name": "batched"})
        done["batch"] = [len(found.records), made.id[:3]]
        async with sf.composite(all_or_none=True) as composite:
            parent = composite.sobject.create("Account", {"Name": "parent"})
            child = composite.sobject.create("Contact", {"LastName": "c", "AccountId": str(parent.reference.id)})
        done["composite"] = [parent.id[:3], child.id[:3]]
        await sf.sobject.delete("Account", account)
    return done


def salesforce_api() -> dict:
    """REST and Bulk 2.0 with a token."""
    from salesforce_api import Salesforce
    from salesforce_api.core import Connection

    token, url = os.environ["ACCESS_TOKEN"], os.environ["ORG_URL"]
    os.environ.pop("HTTPS_PROXY")
    sf = Salesforce(Connection(version="50.0", access_token=token, instance_url=url))
    made = sf.sobjects.Account.insert({"Name": "One"})
    rows = sf.bulk.insert("Account", [{"Name": "Two", "Site": "x"}, {"Name": "", "Site": "nameless"}])
    return {
        "inserted": made["success"],
        "queried": len(sf.sobjects.query("SELECT Id FROM Contact LIMIT 300")),
        "bulk": sorted(row.success for row in rows),
    }


def cloudy_salesforce() -> dict:
    """REST after a SOAP log-in at login.salesforce.com (through the proxy)."""
    from cloudy_salesforce import SalesforceClient, UsernamePasswordAuthentication, query

    user, password = os.environ["ORG_USERNAME"], os.environ["ORG_PASSWORD"]
    client = SalesforceClient(UsernamePasswordAuthentication(user, password, security_token=""))
    found = query("SELECT Id, (SELECT Id FROM Contacts) FROM Account WHERE Name LIKE '%' LIMIT 5", client=client)
    return {"queried": len(found["records"]), "children": found["records"][0]["Contacts"]["totalSize"] > 0}


def simple_salesforce_fork() -> dict:
    """async-simple-salesforce, which is imported as its original."""
    from simple_salesforce import Salesforce

    sf = Salesforce(username=os.environ["ORG_USERNAME"], password=os.environ["ORG_PASSWORD"], security_token="")
    return {
        "inserted": sf.Account.create({"Name": "fork"})["success"],
        "queried": len(sf.query_all("SELECT Id FROM Contact LIMIT 300")["records"]),
    }


CHECKS = {
    "aio": aiosalesforce,
    "api": salesforce_api,
    "bulk": salesforce_bulk,
    "cloudy": cloudy_salesforce,
    "fork": simple_salesforce_fork,
}

if __name__ == "__main__":
    print(json.dumps(CHECKS[sys.argv[1]]()))
