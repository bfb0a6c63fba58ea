"""Activities, campaigns and cases."""

from local_org.catalogue import Field, ObjectType
from local_org.objects.build import (
    area,
    boolean,
    build,
    currency,
    date,
    email,
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
    phone,
    picklist,
    record_id,
    system_fields,
    text,
    viewed,
)

_WHAT = ("Account", "Opportunity", "Campaign", "Case")


def _activity_links(children: str) -> list[Field]:
    return [
        lookup("WhoId", "Name ID", "Contact", "Lead", children=children, cascade_delete=True),
        lookup("WhatId", "Related To ID", *_WHAT, children=children, cascade_delete=True),
    ]


def task() -> ObjectType:
    statuses = ("Not Started", "In Progress", "Completed", "Waiting on someone else", "Deferred")
    fields = [
        record_id("Activity"),
        *_activity_links("Tasks"),
        make("combobox", "Subject", "Subject", length=255, name_field=True,
             picklist=("Call", "Email", "Send Letter", "Send Quote", "Other")),
        date("ActivityDate", "Due Date Only"),
        picklist("Status", "Status", statuses, nillable=False, defaulted_on_create=True, default=statuses[0]),
        picklist("Priority", "Priority", ("High", "Normal", "Low"), nillable=False, defaulted_on_create=True,
                 default="Normal"),
        fixed(boolean("IsHighPriority", "High Priority")),
        owner("Group", "User"),
        area("Description", "Description", 32000),
        is_deleted(),
        fixed(lookup("AccountId", "Account ID", "Account")),
        fixed(boolean("IsClosed", "Closed")),
        *system_fields(),
        fixed(boolean("IsArchived", "Archived")),
        picklist("TaskSubtype", "Task Subtype", ("Task", "Email", "Call", "ListEmail"), 40, updateable=False,
                 restricted_picklist=True),
        boolean("IsReminderSet", "Reminder Set"),
        moment("ReminderDateTime", "Reminder Date/Time"),
        fixed(moment("CompletedDateTime", "Completed Date")),
        integer("CallDurationInSeconds", "Call Duration"),
    ]  # fmt: skip
    return build("Task", "00T", "Tasks", fields)


def event() -> ObjectType:
    fields = [
        record_id("Activity"),
        *_activity_links("Events"),
        make("combobox", "Subject", "Subject", length=255, name_field=True,
             picklist=("Call", "Email", "Meeting", "Send Letter/Quote", "Other")),
        text("Location", "Location", 255),
        boolean("IsAllDayEvent", "All-Day Event"),
        moment("ActivityDateTime", "Due Date Time"),
        date("ActivityDate", "Due Date Only"),
        integer("DurationInMinutes", "Duration"),
        moment("StartDateTime", "Start Date Time"),
        moment("EndDateTime", "End Date Time"),
        area("Description", "Description", 32000),
        fixed(lookup("AccountId", "Account ID", "Account")),
        owner("Calendar", "User"),
        boolean("IsPrivate", "Private"),
        picklist("ShowAs", "Show Time As", ("Busy", "OutOfOffice", "Free"), 40, defaulted_on_create=True,
                 restricted_picklist=True, default="Busy"),
        is_deleted(),
        *system_fields(),
        fixed(boolean("IsArchived", "Archived")),
    ]  # fmt: skip
    return build("Event", "00U", "Events", fields)


def campaign() -> ObjectType:
    types = ("Conference", "Webinar", "Trade Show", "Email", "Telemarketing", "Other")
    counts = ("NumberOfLeads", "NumberOfContacts", "NumberOfOpportunities", "NumberOfWonOpportunities")
    fields = [
        record_id("Campaign"),
        is_deleted(),
        text("Name", "Name", 80, nillable=False, name_field=True),
        lookup("ParentId", "Parent Campaign ID", "Campaign", children="ChildCampaigns"),
        picklist("Type", "Type", types),
        picklist("Status", "Status", ("Planned", "In Progress", "Completed", "Aborted"), default="Planned"),
        date("StartDate", "Start Date"),
        date("EndDate", "End Date"),
        currency("ExpectedRevenue", "Expected Revenue"),
        currency("BudgetedCost", "Budgeted Cost", 0),
        currency("ActualCost", "Actual Cost", 0),
        make("percent", "ExpectedResponse", "Expected Response (%)", precision=10, scale=2),
        number("NumberSent", "Num Sent", 18, 0),
        boolean("IsActive", "Active"),
        area("Description", "Description", 32000),
        *(fixed(integer(name, name, nillable=False, defaulted_on_create=True, default=0)) for name in counts),
        owner(),
        *system_fields(),
        last_activity(),
        *viewed(),
    ]
    return build("Campaign", "701", "Campaigns", fields)


def campaign_member() -> ObjectType:
    fields = [
        record_id("Campaign Member"),
        is_deleted(),
        lookup("CampaignId", "Campaign ID", "Campaign", children="CampaignMembers", nillable=False,
               updateable=False, cascade_delete=True),
        lookup("LeadId", "Lead ID", "Lead", children="CampaignMembers", updateable=False,
               cascade_delete=True),
        lookup("ContactId", "Contact ID", "Contact", children="CampaignMembers", updateable=False,
               cascade_delete=True),
        picklist("Status", "Status", ("Sent", "Responded"), 40, defaulted_on_create=True, default="Sent"),
        fixed(boolean("HasResponded", "Responded")),
        *system_fields(),
    ]  # fmt: skip
    return build("CampaignMember", "00v", "Campaign Members", fields, label="Campaign Member",
                 undeletable=False)  # fmt: skip


def case() -> ObjectType:
    statuses = ("New", "Working", "Escalated", "Closed")
    fields = [
        record_id("Case"),
        is_deleted(),
        master_record("Case"),
        fixed(text("CaseNumber", "Case Number", 30, nillable=False, name_field=True, id_lookup=True,
                   defaulted_on_create=True, auto_number="{00000000}")),
        lookup("ContactId", "Contact ID", "Contact", children="Cases", restricted_delete=True),
        lookup("AccountId", "Account ID", "Account", children="Cases", restricted_delete=True),
        lookup("ParentId", "Parent Case ID", "Case", children="Cases"),
        text("SuppliedName", "Name", 80),
        email("SuppliedEmail", "Email Address"),
        phone("SuppliedPhone", "Phone"),
        text("SuppliedCompany", "Company", 80),
        picklist("Type", "Case Type", ("Question", "Problem", "Feature Request")),
        picklist("Status", "Status", statuses, defaulted_on_create=True, default=statuses[0]),
        picklist("Reason", "Case Reason", ("Installation", "Performance", "Breakdown", "Feedback", "Other")),
        picklist("Origin", "Case Origin", ("Phone", "Email", "Web")),
        text("Subject", "Subject", 255),
        picklist("Priority", "Priority", ("High", "Medium", "Low"), defaulted_on_create=True,
                 default="Medium"),
        area("Description", "Description", 32000),
        fixed(boolean("IsClosed", "Closed")),
        fixed(moment("ClosedDate", "Closed Date")),
        boolean("IsEscalated", "Escalated"),
        owner("Group", "User"),
        *system_fields(),
        *viewed(),
    ]  # fmt: skip
    return build("Case", "500", "Cases", fields, mergeable=True, feed_enabled=True)


def service_objects() -> list[ObjectType]:
    return [task(), event(), campaign(), campaign_member(), case()]
