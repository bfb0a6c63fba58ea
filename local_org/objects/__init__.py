"""The standard objects that a new org has."""

from local_org.catalogue import ObjectType
from local_org.objects.people import people_objects
from local_org.objects.sales import sales_objects
from local_org.objects.service import service_objects
from local_org.objects.setup import setup_objects


def standard_objects() -> list[ObjectType]:
    """Every standard object of a new org."""
    return [*setup_objects(), *people_objects(), *sales_objects(), *service_objects()]
