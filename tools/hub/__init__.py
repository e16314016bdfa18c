"""Hubs, as the owner of an account uses them: logins, the account, its drives."""
