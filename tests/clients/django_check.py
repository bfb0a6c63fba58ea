"""Run by the interpreter of django-salesforce's own environment; prints one JSON object of what it did."""

import json
import os
import sys
import tempfile
from pathlib import Path

MODELS = """
from salesforce import models

class Account(models.Model):
    name = models.CharField(max_length=255)
    phone = models.CharField(max_length=40, null=True)

    class Meta(models.Model.Meta):
        db_table = "Account"
        managed = False

class Contact(models.Model):
    last_name = models.CharField(max_length=80)
    title = models.CharField(max_length=80, null=True)
    account = models.ForeignKey(Account, on_delete=models.DO_NOTHING, null=True)

    class Meta(models.Model.Meta):
        db_table = "Contact"
        managed = False
"""


def set_up() -> None:
    """A Django project in a folder of its own, with the org as a database."""
    import django
    from django.conf import settings

    folder = Path(tempfile.mkdtemp())
    (folder / "crm").mkdir()
    (folder / "crm/__init__.py").touch()
    (folder / "crm/models.py").write_text(MODELS)
    sys.path.insert(0, str(folder))
    org = {
        "ENGINE": "salesforce.backend",
        "CONSUMER_KEY": os.environ["CLIENT_ID"],
        "CONSUMER_SECRET": os.environ["CLIENT_SECRET"],
        "USER": os.environ["ORG_USERNAME"],
        "PASSWORD": os.environ["ORG_PASSWORD"],
        "HOST": os.environ["ORG_URL"],
    }
    settings.configure(
        INSTALLED_APPS=["salesforce", "crm"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}, "salesforce": org},
        DATABASE_ROUTERS=["salesforce.router.ModelRouter"],
        SALESFORCE_DB_ALIAS="salesforce",
        USE_TZ=True,
    )
    django.setup()


def play() -> dict:
    """What a program does with its models."""
    import io

    from crm.models import Account, Contact
    from django.core.management import call_command
    from django.db.models import Max, Q

    done: dict = {"count": Contact.objects.count()}
    account = Account.objects.create(name="django")
    account.phone = "55"
    account.save()
    done["saved"] = Account.objects.get(pk=account.pk).phone
    Contact.objects.bulk_create([Contact(last_name=f"d{n}", account=account) for n in range(5)])
    mine = Contact.objects.filter(account=account)
    done["updated"] = mine.update(title="t")
    done["parents"] = list(mine.order_by("-last_name").values_list("last_name", "account__name")[:1])
    done["either"] = Contact.objects.filter(Q(last_name="d1") | Q(last_name="d2")).count()
    done["semi_join"] = Account.objects.filter(pk__in=Contact.objects.filter(last_name="d1").values("account")).count()
    done["newest"] = mine.aggregate(Max("last_name"))["last_name__max"]
    done["all"] = sum(1 for _ in Contact.objects.all())
    done["deleted"] = [mine.delete()[0], account.delete()[0]]
    models = io.StringIO()
    call_command("inspectdb", "Contact", database="salesforce", stdout=models)
    done["inspected"] = "class Contact(models.Model)" in models.getvalue()
    return done


if __name__ == "__main__":
    set_up()
    print(json.dumps(play()))
