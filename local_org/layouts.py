"""What user interfaces ask about an object: layouts, list views, quick actions, tabs, what was used last.

The org has no designed pages: each object has one generated layout with every field. Source: REST API Developer
Guide, "sObject Layouts", "Compact Layouts", "List Views", "Recently Viewed Items", "Tabs", "Themes".
"""

from typing import Any

from local_org.catalogue import COMPOUND_TYPES, Field, ObjectType
from local_org.context import Context
from local_org.describe import MASTER_RECORD_TYPE, describe_entry, describe_field, describe_object
from local_org.errors import not_found
from local_org.metadata import record_types
from local_org.schema import quoted
from local_org.words import whole_number

Record = dict[str, Any]
DEFAULT_RECENT, MAX_RECENT, BASIC_RECENT = 200, 2_000, 5


def _with_layout(ctx: Context, object_name: str) -> ObjectType:
    item = ctx.object(object_name)
    if not item.layoutable:
        raise not_found()
    return item


def basic_information(ctx: Context, object_name: str) -> Record:
    """GET sobjects/{object}."""
    item = ctx.object(object_name)
    return {"objectDescribe": describe_entry(item, _base(ctx)), "recentItems": recent_items(ctx, item, BASIC_RECENT)}


def layouts(ctx: Context, object_name: str) -> Record:
    """GET sobjects/{object}/describe/layouts."""
    item = _with_layout(ctx, object_name)
    mappings = [
        {
            "active": info["active"],
            "available": info["available"],
            "defaultRecordTypeMapping": info["defaultRecordTypeMapping"],
            "developerName": info["developerName"],
            "layoutId": None,
            "master": info["master"],
            "name": info["name"],
            "picklistsForRecordType": [],
            "recordTypeId": info["recordTypeId"],
            "urls": info["urls"],
        }
        for info in record_types(ctx, item, _base(ctx))
    ]
    return {
        "layouts": [_layout(item)],
        "recordTypeMappings": mappings,
        "recordTypeSelectorRequired": [len(mappings) > 1],
    }


def layout(ctx: Context, object_name: str, record_type: str) -> Record:
    """GET sobjects/{object}/describe/layouts/{record type}: the same for each of them."""
    item = _with_layout(ctx, object_name)
    known = {info["recordTypeId"][:15] for info in record_types(ctx, item, _base(ctx))} | {MASTER_RECORD_TYPE[:15]}
    if record_type[:15] not in known:
        raise not_found()
    return _layout(item)


def _base(ctx: Context) -> str:
    return ctx.url("").rstrip("/")


def _layout(item: ObjectType) -> Record:
    return {
        "buttonLayoutSection": {"detailButtons": []},
        "detailLayoutSections": [_section(item, editing=False)],
        "editLayoutSections": [_section(item, editing=True)],
        "feedView": None,
        "highlightsPanelLayoutSection": None,
        "id": None,
        "multirowEditLayoutSections": [],
        "offlineLinks": [],
        "quickActionList": {"quickActionListItems": []},
        "relatedContent": None,
        "relatedLists": [],
        "saveOptions": [],
    }


def _section(item: ObjectType, *, editing: bool) -> Record:
    """One section, one field a row."""
    fields = [f for f in item.fields.values() if f.type not in COMPOUND_TYPES and f.type != "id"]
    rows = [{"layoutItems": [_item(field, editing)], "numItems": 1} for field in fields]
    return {
        "collapsed": False,
        "columns": 1,
        "heading": f"{item.label} Information",
        "layoutRows": rows,
        "layoutSectionId": None,
        "parentLayoutId": None,
        "rows": len(rows),
        "tabOrder": "LeftToRight",
        "useCollapsibleSection": False,
        "useHeading": True,
    }


def _item(field: Field, editing: bool) -> Record:
    component = {
        "details": describe_field(field),
        "displayLines": 1,
        "tabOrder": 1,
        "type": "Field",
        "value": field.name,
    }
    return {
        "editableForNew": editing and field.createable,
        "editableForUpdate": editing and field.updateable,
        "label": field.label,
        "layoutComponents": [component],
        "placeholder": False,
        "required": field.required,
    }


def compact_layouts(ctx: Context, object_name: str) -> Record:
    """GET sobjects/{object}/describe/compactLayouts."""
    item = _with_layout(ctx, object_name)
    chosen = item.name_field or next(iter(item.fields.values()))
    compact = {
        "actions": [],
        "fieldItems": [_item(chosen, editing=False)],
        "id": None,
        "imageItems": [],
        "label": "System Default",
        "name": "SYSTEM",
        "objectType": item.name,
    }
    mappings = [
        {
            "available": info["available"],
            "compactLayoutId": None,
            "compactLayoutName": "SYSTEM",
            "recordTypeId": info["recordTypeId"],
            "recordTypeName": info["name"],
            "urls": {},
        }
        for info in record_types(ctx, item, _base(ctx))
    ]
    return {
        "compactLayouts": [compact],
        "defaultCompactLayoutId": None,
        "recordTypeCompactLayoutMappings": mappings,
        "urls": {"primary": f"{_base(ctx)}/sobjects/{item.name}/describe/compactLayouts/primary"},
    }


def primary_compact_layouts(ctx: Context) -> Record:
    """GET compactLayouts?q=Account,Contact."""
    names = [name for name in ctx.query.get("q", "").split(",") if name]
    return {ctx.object(name).name: compact_layouts(ctx, name)["compactLayouts"][0] for name in names}


def approval_layouts(ctx: Context, object_name: str) -> Record:
    """GET sobjects/{object}/describe/approvalLayouts: there are none."""
    _with_layout(ctx, object_name)
    return {"approvalLayouts": []}


def list_views(ctx: Context, object_name: str) -> Record:
    """GET sobjects/{object}/listviews: there are none."""
    item = _with_layout(ctx, object_name)
    return {"done": True, "listviews": [], "nextRecordsUrl": None, "size": 0, "sobjectType": item.name}


def quick_actions(ctx: Context, object_name: str = "") -> list[Record]:
    """GET quickActions, or those of an object: there are none."""
    if object_name:
        _with_layout(ctx, object_name)
    return []


def default_values(ctx: Context, object_name: str) -> Record:
    """GET sobjects/{object}/defaultValues: what a new record begins with."""
    item = _with_layout(ctx, object_name)
    defaults = {f.name: f.default for f in item.fields.values() if f.createable and f.default is not None}
    return {"attributes": {"type": item.name}, **defaults}


def tabs(ctx: Context) -> list[Record]:
    """GET tabs: one for each object that has pages."""
    return [
        {
            "colors": [],
            "custom": item.custom,
            "iconUrl": None,
            "icons": [],
            "label": item.label_plural,
            "miniIconUrl": None,
            "name": f"standard-{item.name}" if not item.custom else item.name,
            "sobjectName": item.name,
            "url": f"{ctx.host_url}/{item.key_prefix}/o",
        }
        for item in ctx.catalogue.objects()
        if item.layoutable
    ]


def theme(ctx: Context) -> Record:
    """GET theme: no colours, no icons."""
    items = [{"colors": [], "icons": [], "name": item.name} for item in ctx.catalogue.objects() if item.layoutable]
    return {"themeItems": items}


def recent(ctx: Context) -> list[Record]:
    """GET recent?limit=: what the user wrote last, newest first."""
    asked = whole_number(ctx.query.get("limit", ""))
    return recent_items(ctx, None, DEFAULT_RECENT if asked is None else min(asked, MAX_RECENT))


def recent_items(ctx: Context, item: ObjectType | None, limit: int) -> list[Record]:
    """The living records that the user wrote last, of one object or of all."""
    clause, values = (" AND object = ?", (ctx.user, item.name)) if item else ("", (ctx.user,))
    sql = f"SELECT object, id, max(seq) FROM _journal WHERE user_id = ?{clause} GROUP BY object, id ORDER BY 3 DESC LIMIT ?"
    with ctx.store.read() as conn:
        found = [
            _recent(ctx, name, conn.execute(_name_sql(ctx, name), (record_id,)).fetchone(), record_id)
            for name, record_id, _ in conn.execute(sql, (*values, 2 * limit + BASIC_RECENT)).fetchall()
        ]
    return [entry for entry in found if entry is not None][:limit]


def _name_sql(ctx: Context, object_name: str) -> str:
    item = ctx.catalogue.object(object_name)
    if item is None:
        return "SELECT 1 WHERE ? IS NULL"
    shown = quoted(item.name_field.name) if item.name_field and item.name_field.stored else '"Id"'
    alive = ' AND NOT "IsDeleted"' if item.field("IsDeleted") else ""
    hidden = ctx.row_filter(item.name, quoted(item.name))
    return f'SELECT {shown} FROM {quoted(item.name)} WHERE "Id" = ?{alive}{" AND " + hidden if hidden else ""}'


def _recent(ctx: Context, object_name: str, row: tuple[Any] | None, record_id: str) -> Record | None:
    if row is None:
        return None
    attributes = {"type": object_name, "url": ctx.url(f"sobjects/{object_name}/{record_id}")}
    return {"attributes": attributes, "Id": record_id, "Name": row[0]}


# -- UI API


def object_info(ctx: Context, object_name: str) -> Record:
    """GET ui-api/object-info/{object}. Source: UI API Developer Guide, "Get Object Metadata"."""
    item = _with_layout(ctx, object_name)
    infos = record_types(ctx, item, _base(ctx))
    described = describe_object(ctx.catalogue, item, _base(ctx), ctx.host_url, infos)
    copied = ("createable", "custom", "feedEnabled", "keyPrefix", "label", "labelPlural", "layoutable", "mruEnabled",
              "queryable", "searchable", "updateable")  # fmt: skip
    default = next((info["recordTypeId"] for info in infos if info["defaultRecordTypeMapping"]), MASTER_RECORD_TYPE)
    return {
        "apiName": item.name,
        "associateEntityType": None,
        "associateParentEntity": None,
        "childRelationships": [
            {
                "childObjectApiName": child["childSObject"],
                "fieldName": child["field"],
                "junctionIdListNames": [],
                "junctionReferenceTo": [],
                "relationshipName": child["relationshipName"],
            }
            for child in described["childRelationships"]
            if child["relationshipName"]
        ],
        **{name: described[name] for name in copied},
        "defaultRecordTypeId": default,
        "deletable": item.deletable,
        "dependentFields": {},
        "eTag": f"{ctx.catalogue.modified_ms:x}",
        "fields": {field.name: _field_info(field) for field in item.fields.values()},
        "nameFields": [item.name_field.name] if item.name_field else [],
        "recordTypeInfos": {info["recordTypeId"]: _record_type(info) for info in infos},
        "themeInfo": None,
    }


def _record_type(info: Record) -> Record:
    keys = ("available", "defaultRecordTypeMapping", "master", "name", "recordTypeId")
    return {key: info[key] for key in keys}


def _field_info(field: Field) -> Record:
    described = describe_field(field)
    copied = ("calculated", "compound", "createable", "custom", "htmlFormatted", "inlineHelpText", "label", "length",
              "precision", "relationshipName", "scale", "sortable", "unique", "updateable")  # fmt: skip
    return {
        **{name: described[name] for name in copied if name in described},
        "apiName": field.name,
        "compound": field.type in COMPOUND_TYPES,
        "compoundFieldName": field.compound_name,
        "controllerName": None,
        "controllingFields": [],
        "dataType": field.type[0].upper() + field.type[1:],
        "extraTypeInfo": field.extra_type_info,
        "filterable": field.filterable,
        "polymorphicForeignKey": len(field.reference_to) > 1,
        "reference": bool(field.reference_to),
        "referenceTargetField": None,
        "referenceToInfos": [{"apiName": name, "nameFields": ["Name"]} for name in field.reference_to],
        "required": field.required,
    }


def object_infos(ctx: Context) -> Record:
    """GET ui-api/object-info: which objects there are."""
    base = _base(ctx)
    found = {
        item.name: {
            "apiName": item.name,
            "keyPrefix": item.key_prefix,
            "label": item.label,
            "labelPlural": item.label_plural,
            "nameFields": [item.name_field.name] if item.name_field else [],
            "objectInfoUrl": f"{base}/ui-api/object-info/{item.name}",
        }
        for item in ctx.catalogue.objects()
        if item.layoutable
    }
    return {"objects": found}
