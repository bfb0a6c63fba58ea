"""Account, Contact, Opportunity, Lead and what belongs to them.

Source: Object Reference for the Salesforce Platform; sizes and flags as describe reports them.
"""

from typing import Any

from local_org.catalogue import ObjectType
from local_org.objects.build import (
    address,
    area,
    boolean,
    build,
    currency,
    date,
    email,
    external_key,
    fixed,
    integer,
    is_deleted,
    last_activity,
    lookup,
    make,
    master_record,
    moment,
    number,
    owner,
    person_name,
    phone,
    picklist,
    record_id,
    system_fields,
    text,
    url,
    viewed,
)

INDUSTRIES = ("Agriculture", "Apparel", "Banking", "Biotechnology", "Chemicals", "Communications",
              "Construction", "Consulting", "Education", "Electronics", "Energy", "Engineering",
              "Entertainment", "Environmental", "Finance", "Food & Beverage", "Government", "Healthcare",
              "Hospitality", "Insurance", "Machinery", "Manufacturing", "Media", "Not For Profit",
              "Recreation", "Retail", "Shipping", "Technology", "Telecommunications", "Transportation",
              "Utilities", "Other")  # fmt: skip
SOURCES = ("Web", "Phone Inquiry", "Partner Referral", "Purchased List", "Other")
RATINGS = ("Hot", "Warm", "Cold")
CLEAN = ("Matched", "Different", "Acknowledged", "NotFound", "Inactive", "Pending", "SelectMatch", "Skipped")
ACCOUNT_TYPES = ("Prospect", "Customer - Direct", "Customer - Channel", "Channel Partner / Reseller",
                 "Installation Partner", "Technology Partner", "Other")  # fmt: skip
LEAD_STATUSES = ("Open - Not Contacted", "Working - Contacted", "Closed - Converted",
                 "Closed - Not Converted")  # fmt: skip
FORECASTS = {
    "Omitted": "Omitted",
    "Pipeline": "Pipeline",
    "Best Case": "BestCase",
    "Most Likely": "MostLikely",
    "Commit": "Forecast",
    "Closed": "Closed",
}
# stage → (probability, name of the forecast category, closed, won)
STAGES: dict[str, tuple[int, str, bool, bool]] = {
    "Prospecting": (10, "Pipeline", False, False),
    "Qualification": (10, "Pipeline", False, False),
    "Needs Analysis": (20, "Pipeline", False, False),
    "Value Proposition": (50, "Pipeline", False, False),
    "Id. Decision Makers": (60, "Pipeline", False, False),
    "Perception Analysis": (70, "Pipeline", False, False),
    "Proposal/Price Quote": (75, "Pipeline", False, False),
    "Negotiation/Review": (90, "Pipeline", False, False),
    "Closed Won": (100, "Closed", True, True),
    "Closed Lost": (0, "Omitted", True, False),
}


def account() -> ObjectType:
    fields = [
        record_id("Account"),
        is_deleted(),
        master_record("Account"),
        text("Name", "Account Name", 255, nillable=False, name_field=True,
             extra_type_info="switchablepersonname"),
        picklist("Type", "Account Type", ACCOUNT_TYPES, 40),
        lookup("RecordTypeId", "Record Type ID", "RecordType"),
        lookup("ParentId", "Parent Account ID", "Account", children="ChildAccounts"),
        *address("Billing", "Billing"),
        *address("Shipping", "Shipping"),
        phone("Phone", "Account Phone"),
        phone("Fax", "Account Fax"),
        text("AccountNumber", "Account Number", 40),
        url("Website", "Website"),
        fixed(url("PhotoUrl", "Photo URL", extra_type_info="imageurl")),
        text("Sic", "SIC Code", 20),
        picklist("Industry", "Industry", INDUSTRIES, 40),
        currency("AnnualRevenue", "Annual Revenue", 0),
        integer("NumberOfEmployees", "Employees"),
        picklist("Ownership", "Ownership", ("Public", "Private", "Subsidiary", "Other"), 40),
        text("TickerSymbol", "Ticker Symbol", 20),
        area("Description", "Account Description", 32000),
        picklist("Rating", "Account Rating", RATINGS, 40),
        text("Site", "Account Site", 80),
        owner(),
        *system_fields(),
        last_activity(),
        *viewed(),
        text("Jigsaw", "Data.com Key", 20),
        fixed(text("JigsawCompanyId", "Jigsaw Company ID", 20, relationship_name="JigsawCompany")),
        picklist("CleanStatus", "Clean Status", CLEAN, 40, restricted_picklist=True),
        picklist("AccountSource", "Account Source", SOURCES, 40),
        text("DunsNumber", "D-U-N-S Number", 9),
        text("Tradestyle", "Tradestyle", 255),
        text("NaicsCode", "NAICS Code", 8),
        text("NaicsDesc", "NAICS Description", 120),
        text("YearStarted", "Year Started", 4),
        text("SicDesc", "SIC Description", 80),
        lookup("DandbCompanyId", "D&B Company ID", "DandBCompany"),
        lookup("OperatingHoursId", "Operating Hour ID", "OperatingHours"),
        external_key(),
    ]  # fmt: skip
    return build("Account", "001", "Accounts", fields, mergeable=True, feed_enabled=True)


def contact() -> ObjectType:
    phones = (("Phone", "Business Phone"), ("Fax", "Business Fax"), ("MobilePhone", "Mobile Phone"),
              ("HomePhone", "Home Phone"), ("OtherPhone", "Other Phone"),
              ("AssistantPhone", "Asst. Phone"))  # fmt: skip
    fields = [
        record_id("Contact"),
        is_deleted(),
        master_record("Contact"),
        lookup("AccountId", "Account ID", "Account", children="Contacts", cascade_delete=True),
        *person_name(True),
        *address("Other", "Other"),
        *address("Mailing", "Mailing"),
        *(phone(name, label) for name, label in phones),
        lookup("ReportsToId", "Reports To ID", "Contact", children=None),
        email("Email", "Email", id_lookup=True),
        text("Title", "Title", 128),
        text("Department", "Department", 80),
        text("AssistantName", "Assistant's Name", 40),
        picklist("LeadSource", "Lead Source", SOURCES),
        date("Birthdate", "Birthdate"),
        area("Description", "Contact Description", 32000),
        owner(),
        boolean("HasOptedOutOfEmail", "Email Opt Out"),
        boolean("DoNotCall", "Do Not Call"),
        *system_fields(),
        last_activity(),
        fixed(moment("LastCURequestDate", "Last Stay-in-Touch Request Date")),
        fixed(moment("LastCUUpdateDate", "Last Stay-in-Touch Save Date")),
        *viewed(),
        text("EmailBouncedReason", "Email Bounced Reason", 255),
        moment("EmailBouncedDate", "Email Bounced Date"),
        fixed(boolean("IsEmailBounced", "Is Email Bounced")),
        fixed(url("PhotoUrl", "Photo URL", extra_type_info="imageurl")),
        text("Jigsaw", "Data.com Key", 20),
        fixed(text("JigsawContactId", "Jigsaw Contact ID", 20, relationship_name="JigsawContact")),
        picklist("CleanStatus", "Clean Status", CLEAN, 40, restricted_picklist=True),
        lookup("IndividualId", "Individual ID", "Individual"),
        external_key(),
    ]
    return build("Contact", "003", "Contacts", fields, mergeable=True, feed_enabled=True)


def opportunity() -> ObjectType:
    types = ("Existing Customer - Upgrade", "Existing Customer - Replacement",
             "Existing Customer - Downgrade", "New Customer")  # fmt: skip
    fields = [
        record_id("Opportunity"),
        is_deleted(),
        lookup("AccountId", "Account ID", "Account", children="Opportunities", cascade_delete=True),
        boolean("IsPrivate", "Private"),
        text("Name", "Name", 120, nillable=False, name_field=True, id_lookup=True),
        area("Description", "Description", 32000),
        picklist("StageName", "Stage", STAGES, nillable=False),
        currency("Amount", "Amount"),
        make("percent", "Probability", "Probability (%)", precision=3, scale=0, defaulted_on_create=True),
        fixed(currency("ExpectedRevenue", "Expected Amount")),
        number("TotalOpportunityQuantity", "Quantity", 18, 2),
        date("CloseDate", "Close Date", nillable=False),
        picklist("Type", "Opportunity Type", types),
        text("NextStep", "Next Step", 255),
        picklist("LeadSource", "Lead Source", SOURCES),
        fixed(boolean("IsClosed", "Closed")),
        fixed(boolean("IsWon", "Won")),
        fixed(picklist("ForecastCategory", "Forecast Category", FORECASTS.values(), 40, nillable=False,
                       restricted_picklist=True)),
        picklist("ForecastCategoryName", "Forecast Category", FORECASTS, restricted_picklist=True,
                 defaulted_on_create=True),
        lookup("CampaignId", "Campaign ID", "Campaign", children="Opportunities"),
        fixed(boolean("HasOpportunityLineItem", "Has Line Item")),
        lookup("Pricebook2Id", "Price Book ID", "Pricebook2", defaulted_on_create=True),
        owner(),
        *system_fields(),
        last_activity(),
        fixed(moment("LastStageChangeDate", "Last Stage Change Date")),
        fixed(integer("FiscalQuarter", "Fiscal Quarter", compound_name="Fiscal")),
        fixed(integer("FiscalYear", "Fiscal Year", compound_name="Fiscal")),
        fixed(text("Fiscal", "Fiscal Period", 6)),
        lookup("ContactId", "Contact ID", "Contact", children="Opportunities", updateable=False,
               relationship_name=None),
        *viewed(),
        *(fixed(boolean(name, label, filterable=False, sortable=False)) for name, label in
          (("HasOpenActivity", "Has Open Activity"), ("HasOverdueTask", "Has Overdue Task"))),
        *(fixed(lookup(f"Last{what}ChangedHistoryId", "Opportunity History ID", "OpportunityHistory"))
          for what in ("Amount", "CloseDate")),
        external_key(),
    ]  # fmt: skip
    return build("Opportunity", "006", "Opportunities", fields, feed_enabled=True)


def lead() -> ObjectType:
    converted = (("Account", "Account"), ("Contact", "Contact"), ("Opportunity", "Opportunity"))
    fields = [
        record_id("Lead"),
        is_deleted(),
        master_record("Lead"),
        *person_name(True),
        text("Title", "Title", 128),
        text("Company", "Company", 255, nillable=False),
        *address("", ""),
        phone("Phone", "Phone"),
        phone("MobilePhone", "Mobile Phone"),
        phone("Fax", "Fax"),
        email("Email", "Email", id_lookup=True),
        url("Website", "Website"),
        fixed(url("PhotoUrl", "Photo URL", extra_type_info="imageurl")),
        area("Description", "Description", 32000),
        picklist("LeadSource", "Lead Source", SOURCES),
        picklist("Status", "Status", LEAD_STATUSES, nillable=False, defaulted_on_create=True,
                 default=LEAD_STATUSES[0]),
        picklist("Industry", "Industry", INDUSTRIES),
        picklist("Rating", "Rating", RATINGS),
        currency("AnnualRevenue", "Annual Revenue", 0),
        integer("NumberOfEmployees", "Employees"),
        owner("Group", "User"),
        boolean("HasOptedOutOfEmail", "Email Opt Out"),
        fixed(boolean("IsConverted", "Converted")),
        fixed(date("ConvertedDate", "Converted Date")),
        *(fixed(lookup(f"Converted{name}Id", f"Converted {name} ID", name)) for name, _ in converted),
        boolean("IsUnreadByOwner", "Unread By Owner", default=True),
        *system_fields(),
        last_activity(),
        *viewed(),
        text("Jigsaw", "Data.com Key", 20),
        fixed(text("JigsawContactId", "Jigsaw Contact ID", 20, relationship_name="JigsawContact")),
        picklist("CleanStatus", "Clean Status", CLEAN, 40, restricted_picklist=True),
        text("CompanyDunsNumber", "Company D-U-N-S Number", 9),
        lookup("DandbCompanyId", "D&B Company ID", "DandBCompany"),
        text("EmailBouncedReason", "Email Bounced Reason", 255, createable=False),
        moment("EmailBouncedDate", "Email Bounced Date", createable=False),
        lookup("IndividualId", "Individual ID", "Individual"),
        external_key(),
    ]  # fmt: skip
    return build("Lead", "00Q", "Leads", fields, mergeable=True, feed_enabled=True)


def opportunity_contact_role() -> ObjectType:
    roles = ("Business User", "Decision Maker", "Economic Buyer", "Evaluator", "Executive Sponsor",
             "Influencer", "Technical Buyer", "Other")  # fmt: skip
    fields = [
        record_id("Contact Role"),
        lookup("OpportunityId", "Opportunity ID", "Opportunity", children="OpportunityContactRoles",
               nillable=False, updateable=False, cascade_delete=True),
        lookup("ContactId", "Contact ID", "Contact", children="OpportunityContactRoles", nillable=False,
               cascade_delete=True),
        picklist("Role", "Role", roles, 40),
        boolean("IsPrimary", "Primary"),
        *system_fields(),
        is_deleted(),
    ]  # fmt: skip
    flags = {"label": "Opportunity Contact Role", "undeletable": False, "layoutable": False}
    return build("OpportunityContactRole", "00K", "Opportunity Contact Role", fields, **flags)


def opportunity_stage() -> ObjectType:
    fields = [
        record_id("Opportunity Stage"),
        fixed(text("MasterLabel", "Master Label", 255, name_field=True)),
        fixed(text("ApiName", "API Name", 255)),
        fixed(boolean("IsActive", "Is Active")),
        fixed(integer("SortOrder", "Sort Order")),
        fixed(boolean("IsClosed", "Is Closed")),
        fixed(boolean("IsWon", "Is Won")),
        fixed(picklist("ForecastCategory", "Forecast Category", FORECASTS.values(), 40)),
        fixed(picklist("ForecastCategoryName", "Forecast Category Name", FORECASTS)),
        fixed(make("percent", "DefaultProbability", "Probability (%)", precision=3, scale=0)),
        *system_fields(),
    ]
    return build("OpportunityStage", "01J", "Opportunity Stage", fields, **_setup("Opportunity Stage"))


def lead_status() -> ObjectType:
    fields = [
        record_id("Lead Status"),
        fixed(text("MasterLabel", "Master Label", 255, name_field=True)),
        fixed(text("ApiName", "API Name", 255)),
        fixed(integer("SortOrder", "Sort Order")),
        fixed(boolean("IsDefault", "Is Default")),
        fixed(boolean("IsConverted", "Is Converted")),
        *system_fields(),
    ]
    return build("LeadStatus", "01K", "Lead Status Value", fields, **_setup("Lead Status Value"))


def _setup(label: str) -> dict[str, Any]:
    """Flags of objects that set-up owns: readable rows, written by nobody."""
    return {
        "label": label,
        "createable": False,
        "updateable": False,
        "deletable": False,
        "undeletable": False,
        "replicateable": False,
        "layoutable": False,
        "triggerable": False,
        "searchable": False,
    }


def sales_objects() -> list[ObjectType]:
    return [
        account(),
        contact(),
        opportunity(),
        lead(),
        opportunity_contact_role(),
        opportunity_stage(),
        lead_status(),
    ]
