"""User, Organization and the objects of set-up that clients read at start."""

from typing import Any

from local_org.catalogue import Field, ObjectType
from local_org.objects.build import (
    address,
    area,
    boolean,
    build,
    date,
    email,
    fixed,
    integer,
    lookup,
    moment,
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

LANGUAGES = ("en_US", "de", "es", "fr", "it", "ja", "sv", "ko", "zh_TW", "zh_CN", "pt_BR", "nl_NL", "da",
             "th", "fi", "ru", "es_MX", "no")  # fmt: skip
LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "ja_JP", "nl_NL", "pt_BR", "sv_SE")
ZONES = ("America/Los_Angeles", "America/Denver", "America/Chicago", "America/New_York", "America/Sao_Paulo",
         "Europe/London", "Europe/Berlin", "Europe/Paris", "Asia/Kolkata", "Asia/Tokyo",
         "Australia/Sydney", "GMT")  # fmt: skip
ENCODINGS = ("UTF-8", "ISO-8859-1", "Shift_JIS", "ISO-2022-JP", "EUC-JP", "GB2312", "Big5")
USER_TYPES = ("Standard", "PowerPartner", "PowerCustomerSuccess", "CustomerSuccess", "Guest", "CspLitePortal",
              "CsnOnly", "SelfService", "AutomatedProcess")  # fmt: skip
_PREFERENCES = ("ActivityRemindersPopup", "EventRemindersCheckboxDefault", "TaskRemindersCheckboxDefault",
                "ReminderSoundOff", "DisableAllFeedsEmail", "LightningExperiencePreferred")  # fmt: skip
_PERMISSIONS = ("MarketingUser", "OfflineUser", "CallCenterAutoLogin", "SFContentUser", "KnowledgeUser",
                "InteractionUser", "SupportUser")  # fmt: skip


def user() -> ObjectType:
    chosen: dict[str, Any] = {"nillable": False, "restricted_picklist": True}
    fields = [
        record_id("User"),
        text("Username", "Username", 80, nillable=False, id_lookup=True),
        *person_name(False),
        *(text(name, label, 80) for name, label in (("CompanyName", "Company Name"), ("Division", "Division"),
                                                    ("Department", "Department"), ("Title", "Title"))),
        *address("", ""),
        email("Email", "Email", 128, nillable=False),
        *(boolean(f"EmailPreferences{name}", name) for name in ("AutoBcc", "AutoBccStayInTouch",
                                                                "StayInTouchReminder")),
        email("SenderEmail", "Email Sender Address"),
        text("SenderName", "Email Sender Name", 80),
        area("Signature", "Email Signature", 1333),
        *(phone(name, label) for name, label in (("Phone", "Phone"), ("Fax", "Fax"),
                                                 ("MobilePhone", "Mobile"))),
        text("Alias", "Alias", 8, nillable=False),
        text("CommunityNickname", "Nickname", 40, nillable=False, defaulted_on_create=True, unique=True),
        fixed(text("BadgeText", "User Photo badge text overlay", 80)),
        boolean("IsActive", "Active", default=True),
        picklist("TimeZoneSidKey", "Time Zone", ZONES, 40, **chosen),
        lookup("UserRoleId", "Role ID", "UserRole"),
        picklist("LocaleSidKey", "Locale", LOCALES, 40, **chosen),
        boolean("ReceivesInfoEmails", "Info Emails"),
        boolean("ReceivesAdminInfoEmails", "Admin Info Emails"),
        picklist("EmailEncodingKey", "Email Encoding", ENCODINGS, 40, **chosen),
        lookup("ProfileId", "Profile ID", "Profile", nillable=False),
        fixed(picklist("UserType", "User Type", USER_TYPES, 40, restricted_picklist=True)),
        picklist("LanguageLocaleKey", "Language", LANGUAGES, 40, **chosen),
        text("EmployeeNumber", "Employee Number", 20),
        lookup("DelegatedApproverId", "Delegated Approver ID", "Group", "User", relationship_name=None),
        lookup("ManagerId", "Manager ID", "User", children="ManagedUsers"),
        fixed(moment("LastLoginDate", "Last Login")),
        fixed(moment("LastPasswordChangeDate", "Last Password Change or Reset")),
        *system_fields(),
        fixed(integer("NumberOfFailedLogins", "Failed Login Attempts")),
        fixed(date("SuAccessExpirationDate", "SU Access Expiration Date")),
        *(boolean(f"UserPermissions{name}", name) for name in _PERMISSIONS),
        boolean("ForecastEnabled", "Allow Forecasting"),
        *(boolean(f"UserPreferences{name}", name) for name in _PREFERENCES),
        lookup("ContactId", "Contact ID", "Contact", children="Users", updateable=False,
               restricted_delete=True),
        fixed(lookup("AccountId", "Account ID", "Account", children="Users")),
        text("Extension", "Extension", 40),
        text("FederationIdentifier", "SAML Federation ID", 512, unique=True, case_sensitive=True),
        area("AboutMe", "About Me", 1000),
        *(fixed(url(name, label, 1024)) for name, label in (("FullPhotoUrl", "Url for full-sized Photo"),
                                                            ("SmallPhotoUrl", "Photo"))),
        picklist("DigestFrequency", "Chatter Email Highlights Frequency", ("D", "W", "N"), 40, default="D",
                 defaulted_on_create=True, **chosen),
        picklist("DefaultGroupNotificationFrequency", "Default Notification Frequency when Joining Groups",
                 ("P", "D", "W", "N"), 40, default="N", defaulted_on_create=True, **chosen),
        *viewed(),
    ]  # fmt: skip
    return build("User", "005", "Users", fields, deletable=False, undeletable=False)


def organization() -> ObjectType:
    def access(name: str) -> Field:
        choices = ("None", "Read", "Edit", "ControlledByParent")
        return fixed(picklist(f"Default{name}Access", f"Default {name} Access", choices, 40))

    fields = [
        record_id("Organization"),
        text("Name", "Name", 80, nillable=False, name_field=True, createable=False),
        text("Division", "Division", 80, createable=False),
        *(fixed(part) for part in address("", "")),
        phone("Phone", "Phone"),
        phone("Fax", "Fax"),
        text("PrimaryContact", "Primary Contact", 80, createable=False),
        picklist("DefaultLocaleSidKey", "Locale", LOCALES, 40, nillable=False, createable=False),
        picklist("TimeZoneSidKey", "Time Zone", ZONES, 40, nillable=False, createable=False),
        picklist("LanguageLocaleKey", "Language", LANGUAGES, 40, nillable=False, createable=False),
        *(access(name) for name in ("Account", "Contact", "Opportunity", "Lead", "Case", "Campaign")),
        fixed(integer("FiscalYearStartMonth", "Fiscal Year Starts In")),
        fixed(picklist("OrganizationType", "Edition", ("Developer Edition", "Enterprise Edition"), 40)),
        fixed(text("NamespacePrefix", "Namespace Prefix", 15)),
        fixed(text("InstanceName", "Instance Name", 5)),
        fixed(boolean("IsSandbox", "Is Sandbox")),
        fixed(boolean("IsReadOnly", "Is Read Only")),
        fixed(moment("TrialExpirationDate", "Trial Expiration Date")),
        picklist("UiSkin", "UI Skin", ("Theme3", "Theme42"), 40, createable=False),
        text("WebToCaseDefaultOrigin", "Web to Cases Default Origin", 40, createable=False),
        fixed(integer("MonthlyPageViewsUsed", "Monthly Page Views Used")),
        *system_fields(),
    ]
    return build("Organization", "00D", "Organizations", fields, **_read_only(updateable=True))


def profile() -> ObjectType:
    fields = [
        record_id("Profile"),
        text("Name", "Name", 255, nillable=False, name_field=True),
        fixed(picklist("UserType", "User Type", USER_TYPES, 40)),
        area("Description", "Description", 255),
        boolean("PermissionsApiEnabled", "API Enabled"),
        boolean("PermissionsModifyAllData", "Modify All Data"),
        boolean("PermissionsViewAllData", "View All Data"),
        *system_fields(),
    ]
    return build("Profile", "00e", "Profile", fields, **_read_only())


def user_role() -> ObjectType:
    fields = [
        record_id("Role"),
        text("Name", "Name", 80, nillable=False, name_field=True),
        lookup("ParentRoleId", "Parent Role ID", "UserRole"),
        text("RollupDescription", "Description", 80),
        text("DeveloperName", "Developer Name", 80),
        *system_fields(),
    ]
    return build("UserRole", "00E", "Role", fields, label="Role", undeletable=False, layoutable=False)


def record_type() -> ObjectType:
    fields = [
        record_id("Record Type"),
        text("Name", "Name", 80, nillable=False, name_field=True),
        text("DeveloperName", "Record Type Name", 80, nillable=False),
        text("NamespacePrefix", "Namespace Prefix", 15),
        area("Description", "Description", 255),
        picklist("SobjectType", "SObject Type Name", (), 40, nillable=False),
        boolean("IsActive", "Active", default=True),
        *system_fields(),
    ]
    flags = {"label": "Record Type", "undeletable": False, "layoutable": False, "replicateable": False}
    return build("RecordType", "012", "Record Types", fields, **flags)


def group() -> ObjectType:
    types = ("Regular", "Role", "RoleAndSubordinates", "Organization", "Queue")
    fields = [
        record_id("Group"),
        text("Name", "Name", 40, nillable=False, name_field=True),
        text("DeveloperName", "Developer Name", 80),
        fixed(lookup("RelatedId", "Related ID", "User", "UserRole", relationship_name="Related")),
        picklist("Type", "Type", types, 40, nillable=False, restricted_picklist=True),
        email("Email", "Email", 255),
        owner("Organization", "User"),
        boolean("DoesSendEmailToMembers", "Send Email to Members"),
        boolean("DoesIncludeBosses", "Include Bosses"),
        *system_fields(),
    ]
    return build("Group", "00G", "Group", fields, undeletable=False, layoutable=False)


def _read_only(**flags: bool) -> dict[str, Any]:
    closed = dict.fromkeys(("createable", "updateable", "deletable", "undeletable", "layoutable"), False)
    return closed | {"replicateable": True, "triggerable": False, **flags}


def people_objects() -> list[ObjectType]:
    return [user(), organization(), profile(), user_role(), record_type(), group()]
