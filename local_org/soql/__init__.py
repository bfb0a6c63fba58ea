"""SOQL: grammar, syntax tree, translation to SQL of the store."""
