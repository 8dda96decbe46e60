"""The backends that come with abatch: JSON lines, SQLite and S3. Each imports public abatch names only."""
