"""The status page: what runs, what is behind, what needs a person. Server-rendered, live, behind a sign-in with an admin key."""
