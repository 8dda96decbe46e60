"""The backends that come with abatch: JSON lines, SQLite and S3. They import only public names of abatch."""
