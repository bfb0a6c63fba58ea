"""What the org says about itself as records, and attachments.

Source: Object Reference and Tooling API, "EntityDefinition", "FieldDefinition"; Object Reference, "Attachment".
"""

from typing import Any

from local_org.catalogue import COMPOUND_TYPES, Field, ObjectType
from local_org.objects.build import (
    area,
    boolean,
    build,
    fixed,
    integer,
    is_deleted,
    lookup,
    make,
    moment,
    owner,
    record_id,
    system_fields,
    text,
)

ENTITY, FIELD = "EntityDefinition", "FieldDefinition"
_READ_ONLY: dict[str, Any] = {
    "createable": False,
    "updateable": False,
    "deletable": False,
    "undeletable": False,
    "replicateable": False,
    "searchable": False,
    "layoutable": False,
    "triggerable": False,
    "bulk": False,
}
_TEXT_TYPES = {"string": "Text", "textarea": "Text Area", "phone": "Phone", "email": "Email", "url": "URL",
               "picklist": "Picklist", "multipicklist": "Picklist (Multi-Select)", "boolean": "Checkbox",
               "date": "Date", "datetime": "Date/Time", "time": "Time", "address": "Address", "id": "Lookup()",
               "location": "Geolocation", "base64": "Base64"}  # fmt: skip
_NUMBER_TYPES = {"double": "Number", "currency": "Currency", "percent": "Percent", "int": "Number", "long": "Number"}


def entity_definition() -> ObjectType:
    fields = [
        record_id("Entity Definition"),
        text("DurableId", "Durable ID", 255),
        moment("LastModifiedDate", "Last Modified Date"),
        text("QualifiedApiName", "Qualified API Name", 70, name_field=True),
        text("NamespacePrefix", "Namespace", 15),
        text("DeveloperName", "Developer Name", 40),
        text("MasterLabel", "Master Label", 80),
        text("Label", "Label", 80),
        text("PluralLabel", "Plural Label", 80),
        text("KeyPrefix", "Key Prefix", 3),
        *(boolean(name, name) for name in ("IsCustomizable", "IsCustomSetting", "IsDeprecatedAndHidden",
                                           "IsReplicateable", "IsRetrieveable", "IsSearchable", "IsTriggerable",
                                           "IsIdEnabled", "IsEverCreatable", "IsEverUpdatable", "IsEverDeletable",
                                           "IsFeedEnabled", "IsQueryable", "IsMruEnabled", "IsLayoutable")),
    ]  # fmt: skip
    return build(ENTITY, "4ie", "Entity Definitions", map(fixed, fields), label="Entity Definition", **_READ_ONLY)


def field_definition() -> ObjectType:
    entity = text("EntityDefinitionId", "Entity Definition ID", 255, reference_to=(ENTITY,),
                  relationship_name=ENTITY, child_relationship="Fields")  # fmt: skip
    fields = [
        record_id("Field Definition"),
        text("DurableId", "Durable ID", 255),
        text("QualifiedApiName", "Qualified API Name", 70, name_field=True),
        entity,
        text("NamespacePrefix", "Namespace", 15),
        text("DeveloperName", "Developer Name", 40),
        text("MasterLabel", "Master Label", 80),
        text("Label", "Label", 80),
        integer("Length", "Length"),
        text("DataType", "Data Type", 255),
        text("ExtraTypeInfo", "Extra Type Info", 40),
        text("RelationshipName", "Relationship Name", 80),
        area("ReferenceTo", "Reference To", 255),
        integer("Precision", "Precision"),
        integer("Scale", "Scale"),
        moment("LastModifiedDate", "Last Modified Date"),
        *(boolean(name, name) for name in ("IsCalculated", "IsHtmlFormatted", "IsNameField", "IsNillable",
                                           "IsIndexed", "IsApiFilterable", "IsApiSortable", "IsApiGroupable",
                                           "IsCompound", "IsPolymorphicForeignKey")),
    ]  # fmt: skip
    return build(FIELD, "4fe", "Field Definitions", map(fixed, fields), label="Field Definition", **_READ_ONLY)


def entity_row(item: ObjectType, now_ms: int) -> dict[str, Any]:
    """The record of EntityDefinition that describes an object."""
    return {
        "Id": item.name,
        "DurableId": item.name,
        "LastModifiedDate": now_ms,
        "QualifiedApiName": item.name,
        "DeveloperName": item.name.removesuffix("__c"),
        "MasterLabel": item.label,
        "Label": item.label,
        "PluralLabel": item.label_plural,
        "KeyPrefix": item.key_prefix,
        "IsCustomizable": int(item.layoutable),
        "IsCustomSetting": 0,
        "IsDeprecatedAndHidden": 0,
        "IsReplicateable": int(item.replicateable),
        "IsRetrieveable": 1,
        "IsSearchable": int(item.searchable),
        "IsTriggerable": int(item.triggerable),
        "IsIdEnabled": 1,
        "IsEverCreatable": int(item.createable),
        "IsEverUpdatable": int(item.updateable),
        "IsEverDeletable": int(item.deletable),
        "IsFeedEnabled": int(item.feed_enabled),
        "IsQueryable": int(item.queryable),
        "IsMruEnabled": int(item.layoutable),
        "IsLayoutable": int(item.layoutable),
    }


def field_row(item: ObjectType, field: Field, now_ms: int) -> dict[str, Any]:
    """The record of FieldDefinition that describes a field."""
    return {
        "Id": f"{item.name}.{field.name}",
        "DurableId": f"{item.name}.{field.name}",
        "QualifiedApiName": field.name,
        "EntityDefinitionId": item.name,
        "DeveloperName": field.name.removesuffix("__c"),
        "MasterLabel": field.label,
        "Label": field.label,
        "Length": field.length,
        "DataType": data_type(field),
        "ExtraTypeInfo": field.extra_type_info,
        "RelationshipName": field.relationship_name,
        "ReferenceTo": ",".join(field.reference_to) or None,
        "Precision": field.precision or field.digits,
        "Scale": field.scale,
        "LastModifiedDate": now_ms,
        "IsCalculated": int(field.calculated),
        "IsHtmlFormatted": int(field.html_formatted),
        "IsNameField": int(field.name_field),
        "IsNillable": int(field.nillable),
        "IsIndexed": int(field.id_lookup or field.external_id or bool(field.reference_to)),
        "IsApiFilterable": int(field.filterable),
        "IsApiSortable": int(field.sortable),
        "IsApiGroupable": int(field.groupable),
        "IsCompound": int(field.type in COMPOUND_TYPES),
        "IsPolymorphicForeignKey": int(len(field.reference_to) > 1),
    }


def data_type(field: Field) -> str:
    """A field's type in the words of Setup: Text(255), Number(18, 0), Lookup(Account), Formula (Text)."""
    if field.reference_to:
        shown = (
            f"{'Master-Detail' if field.relationship_order is not None else 'Lookup'}({','.join(field.reference_to)})"
        )
    elif field.type in _NUMBER_TYPES:
        shown = f"{_NUMBER_TYPES[field.type]}({(field.precision or field.digits) - field.scale}, {field.scale})"
    elif field.type in ("string", "textarea") and field.length:
        long = field.type == "textarea" and field.length > 255
        shown = f"{'Long Text Area' if long else _TEXT_TYPES[field.type]}({field.length})"
    else:
        shown = _TEXT_TYPES.get(field.type, field.type)
    return f"Formula ({shown.partition('(')[0]})" if field.formula else shown


def attachment() -> ObjectType:
    parents = ("Account", "Campaign", "Case", "Contact", "Event", "Lead", "Opportunity", "Task")
    fields = [
        record_id("Attachment"),
        is_deleted(),
        lookup("ParentId", "Parent ID", *parents, children="Attachments", cascade_delete=True, nillable=False),
        text("Name", "File Name", 255, nillable=False, name_field=True),
        boolean("IsPrivate", "Private"),
        text("ContentType", "Content Type", 120),
        fixed(integer("BodyLength", "Body Length")),
        make("base64", "Body", "Body", nillable=False),
        owner(),
        *system_fields(),
        area("Description", "Description", 500),
    ]
    return build("Attachment", "00P", "Attachments", fields, searchable=False, layoutable=False)


def setup_objects() -> list[ObjectType]:
    """EntityDefinition, FieldDefinition and Attachment."""
    return [entity_definition(), field_definition(), attachment()]
