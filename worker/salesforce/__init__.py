"""The edge to Salesforce: nobody else knows a URL, a status code or a header."""
