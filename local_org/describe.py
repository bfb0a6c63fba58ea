"""Describe answers from the catalogue, with every key that the platform sends.

Source: REST API Developer Guide, "sObject Describe", "Describe Global".
"""

from typing import Any

from local_org.catalogue import STRINGS, Catalogue, ChildRelationship, Field, ObjectType

MASTER_RECORD_TYPE = "012000000000000AAA"

_SOAP_TYPES = {
    "id": "tns:ID",
    "reference": "tns:ID",
    "boolean": "xsd:boolean",
    "int": "xsd:int",
    "long": "xsd:long",
    "double": "xsd:double",
    "currency": "xsd:double",
    "percent": "xsd:double",
    "date": "xsd:date",
    "datetime": "xsd:dateTime",
    "time": "xsd:time",
    "address": "urn:address",
    "location": "urn:location",
    "base64": "xsd:base64Binary",
    "anyType": "xsd:anyType",
}
_NULLS_OF_FIELD = ("calculatedFormula", "controllerName", "defaultValueFormula", "filteredLookupInfo",
                   "inlineHelpText", "mask", "maskType", "referenceTargetField")  # fmt: skip
_FALSE_OF_FIELD = ("aiPredictionField", "dependentPicklist", "deprecatedAndHidden", "displayLocationInDecimal",
                   "formulaTreatNullNumberAsZero", "highScaleNumber", "writeRequiresMasterRead")  # fmt: skip


def describe_field(field: Field) -> dict[str, Any]:
    """One entry of `fields`."""
    entry: dict[str, Any] = dict.fromkeys(_NULLS_OF_FIELD)
    entry |= dict.fromkeys(_FALSE_OF_FIELD, False)
    entry |= _identity(field) | _sizes(field) | _abilities(field) | _references(field)
    entry["calculatedFormula"] = field.formula
    return dict(sorted(entry.items()))


def _identity(field: Field) -> dict[str, Any]:
    soap = "xsd:string" if field.type in STRINGS else _SOAP_TYPES.get(field.type, "xsd:string")
    return {
        "name": field.name,
        "type": field.type,
        "soapType": soap,
        "label": field.label,
        "custom": field.custom,
        "compoundFieldName": field.compound_name,
        "extraTypeInfo": field.extra_type_info,
        "htmlFormatted": field.html_formatted,
        "autoNumber": field.auto_number is not None,
        "defaultValue": field.default if field.type == "boolean" else None,
        "nameField": field.name_field,
        "namePointing": field.name_pointing,
        "encrypted": field.encrypted,
        "picklistValues": [_choice(field, value) for value in field.picklist],
        "restrictedPicklist": field.restricted_picklist,
    }


def _choice(field: Field, value: str) -> dict[str, Any]:
    return {
        "active": True,
        "defaultValue": field.default == value,
        "label": value,
        "validFor": None,
        "value": value,
    }


def _sizes(field: Field) -> dict[str, Any]:
    byte_length = 3 * field.length if field.type in STRINGS else field.length
    return {
        "length": field.length,
        "byteLength": byte_length,
        "precision": field.precision,
        "scale": field.scale,
        "digits": field.digits,
    }


def _abilities(field: Field) -> dict[str, Any]:
    return {
        "aggregatable": field.aggregatable,
        "calculated": field.calculated,
        "caseSensitive": field.case_sensitive,
        "createable": field.createable,
        "defaultedOnCreate": field.defaulted_on_create,
        "externalId": field.external_id,
        "filterable": field.filterable,
        "groupable": field.groupable,
        "idLookup": field.id_lookup,
        "nillable": field.nillable,
        "permissionable": field.permissionable,
        "queryByDistance": field.type in ("address", "location"),
        "sortable": field.sortable,
        "unique": field.unique,
        "updateable": field.updateable,
    }


def _references(field: Field) -> dict[str, Any]:
    return {
        "cascadeDelete": field.cascade_delete and field.relationship_order is not None,
        "polymorphicForeignKey": len(field.reference_to) > 1,
        "referenceTo": list(field.reference_to),
        "relationshipName": field.relationship_name,
        "relationshipOrder": field.relationship_order,
        "restrictedDelete": False,
        "searchPrefilterable": bool(field.reference_to) and field.permissionable,
    }


def describe_entry(item: ObjectType, base: str) -> dict[str, Any]:
    """One entry of the global describe. `base` is the version's path, such as /services/data/v68.0."""
    always_false = ("activateable", "customSetting", "deepCloneable", "deprecatedAndHidden", "hasSubtypes",
                    "isInterface", "isSubtype")  # fmt: skip
    entry: dict[str, Any] = dict.fromkeys(always_false, False)
    entry |= {
        "associateEntityType": None,
        "associateParentEntity": None,
        "createable": item.createable,
        "custom": item.custom,
        "deletable": item.deletable,
        "feedEnabled": item.feed_enabled,
        "keyPrefix": item.key_prefix,
        "label": item.label,
        "labelPlural": item.label_plural,
        "layoutable": item.layoutable,
        "mergeable": item.mergeable,
        "mruEnabled": item.layoutable,
        "name": item.name,
        "queryable": item.queryable,
        "replicateable": item.replicateable,
        "retrieveable": item.retrieveable,
        "searchable": item.searchable,
        "triggerable": item.triggerable,
        "undeletable": item.undeletable,
        "updateable": item.updateable,
        "urls": _urls(item, base),
    }
    return dict(sorted(entry.items()))


def _urls(item: ObjectType, base: str) -> dict[str, str]:
    root = f"{base}/sobjects/{item.name}"
    urls = {"rowTemplate": f"{root}/{{ID}}", "describe": f"{root}/describe", "sobject": root}
    if item.layoutable:
        urls |= {
            "compactLayouts": f"{root}/describe/compactLayouts",
            "approvalLayouts": f"{root}/describe/approvalLayouts",
            "listviews": f"{root}/listviews",
            "quickActions": f"{root}/quickActions",
            "layouts": f"{root}/describe/layouts",
            "defaultValues": f"{root}/defaultValues?recordTypeId&fields",
        }
    return urls


def describe_object(
    catalogue: Catalogue, item: ObjectType, base: str, host_url: str, record_types: list[dict[str, Any]]
) -> dict[str, Any]:
    """The whole describe of an object. `record_types` as `record_type_info` gives them."""
    entry = describe_entry(item, base)
    entry["urls"] |= {
        "uiDetailTemplate": f"{host_url}/{{ID}}",
        "uiEditTemplate": f"{host_url}/{{ID}}/e",
        "uiNewRecord": f"{host_url}/{item.key_prefix}/e",
    }
    nothing = ("defaultImplementation", "extendedBy", "extendsInterfaces", "implementedBy",
               "implementsInterfaces", "listviewable", "lookupLayoutable", "networkScopeFieldName")  # fmt: skip
    entry |= dict.fromkeys(nothing)
    entry |= {
        "actionOverrides": [],
        "childRelationships": [_child(child) for child in catalogue.children(item.name)],
        "compactLayoutable": item.layoutable,
        "fields": [describe_field(field) for field in item.fields.values()],
        "namedLayoutInfos": [],
        "recordTypeInfos": record_types,
        "searchLayoutable": item.layoutable,
        "sobjectDescribeOption": "FULL",
        "supportedScopes": _scopes(item),
    }
    return dict(sorted(entry.items()))


def _child(child: ChildRelationship) -> dict[str, Any]:
    return {
        "cascadeDelete": child.cascade_delete,
        "childSObject": child.child_object,
        "deprecatedAndHidden": False,
        "field": child.field,
        "junctionIdListNames": [],
        "junctionReferenceTo": [],
        "relationshipName": child.name,
        "restrictedDelete": child.restricted_delete,
    }


def _scopes(item: ObjectType) -> list[dict[str, str]]:
    plural = item.label_plural.lower()
    scopes = [{"label": f"All {plural}", "name": "everything"}]
    if item.field("OwnerId") is not None:
        scopes.append({"label": f"My {plural}", "name": "mine"})
    return scopes


def record_type_info(item: ObjectType, base: str, row: tuple[str, str, str] | None, *, default: bool) -> dict[str, Any]:
    """An entry of `recordTypeInfos`: of a (id, name, developer name), or of the master for None."""
    record_id, name, developer_name = row or (MASTER_RECORD_TYPE, "Master", "Master")
    return {
        "active": True,
        "available": True,
        "defaultRecordTypeMapping": default,
        "developerName": developer_name,
        "master": row is None,
        "name": name,
        "recordTypeId": record_id,
        "urls": {"layout": f"{base}/sobjects/{item.name}/describe/layouts/{record_id}"},
    }
