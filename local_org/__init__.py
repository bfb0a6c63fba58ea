"""A small Salesforce on localhost, for demo, development and tests."""
