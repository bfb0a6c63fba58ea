"""Who may see what: objects, fields and rows that are hidden from a user."""

from typing import Any

from local_org.catalogue import Catalogue
from local_org.objects.setup import ENTITY, FIELD
from local_org.store import Store


class Access:
    """Restrictions per user, kept in the store. A user without any sees all, as with "View All Data"."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hidden: dict[str, dict[str, Any]] = store.setting("hidden", {})
        self._views: dict[str, Catalogue] = {}
        self._rows = self._users_with_hidden_rows()

    def _users_with_hidden_rows(self) -> set[str]:
        with self._store.read() as conn:
            return {row[0] for row in conn.execute("SELECT DISTINCT user_id FROM _hidden_rows")}

    def catalogue(self, user_id: str) -> Catalogue:
        """The catalogue as this user sees it."""
        hidden = self._hidden.get(user_id)
        whole = self._store.catalogue
        if hidden is None:
            return whole
        view = self._views.get(user_id)
        if view is None or view.version != whole.version:
            view = self._views[user_id] = whole.hidden(hidden["objects"], hidden["fields"])
        return view

    def hide(self, user_id: str, objects: list[str], fields: dict[str, list[str]]) -> None:
        """Replace what is hidden from a user; empty lists show everything again."""
        self._views.pop(user_id, None)
        lower = {name.lower(): names for name, names in fields.items()}
        self._hidden[user_id] = {"objects": objects, "fields": lower}
        if not objects and not fields:
            del self._hidden[user_id]
        self._store.keep_setting("hidden", self._hidden)

    def hide_rows(self, user_id: str, ids: list[str]) -> None:
        """Hide rows from a user, as if sharing no longer reached them."""
        with self._store.write() as conn:
            conn.executemany("INSERT OR IGNORE INTO _hidden_rows VALUES (?, ?)", [(user_id, i) for i in ids])
        self._rows.add(user_id)

    def show_rows(self, user_id: str, ids: list[str]) -> None:
        with self._store.write() as conn:
            conn.executemany("DELETE FROM _hidden_rows WHERE user_id = ? AND id = ?", [(user_id, i) for i in ids])
        self._rows = self._users_with_hidden_rows()

    def row_filter(self, user_id: str, object_name: str, alias: str) -> str:
        """An SQL condition on the row called `alias`, or "" if the user sees every row."""
        if object_name in (ENTITY, FIELD) and user_id in self._hidden:
            return self._seen_definitions(user_id, object_name, alias)
        if user_id not in self._rows:
            return ""
        hidden = f"SELECT id FROM _hidden_rows WHERE user_id = '{user_id}'"
        return f'{alias}."Id" NOT IN ({hidden})'

    def _seen_definitions(self, user_id: str, object_name: str, alias: str) -> str:
        seen = list(self.catalogue(user_id).objects())
        ids = (
            [item.name for item in seen]
            if object_name == ENTITY
            else [f"{i.name}.{f.name}" for i in seen for f in i.fields.values()]
        )
        return f"""{alias}."Id" IN ({", ".join(f"'{name}'" for name in ids)})"""
