"""Very large jobs on the Message Batches API from asyncio: streamed, resumable, and never paid for twice."""
