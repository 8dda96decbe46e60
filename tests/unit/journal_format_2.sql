-- A journal of format 2 as abatch 0 wrote it: a shard in every state, and every kind of fact of that format.
CREATE TABLE about (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (job INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
CREATE TABLE facts (
    seq INTEGER PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs,
    shard INTEGER,
    n INTEGER,
    at REAL NOT NULL,
    writer INTEGER NOT NULL,
    fact BLOB NOT NULL
);
CREATE UNIQUE INDEX fence ON facts (shard, n) WHERE shard IS NOT NULL;
CREATE UNIQUE INDEX cuts ON facts (job, n) WHERE shard IS NULL;
INSERT INTO about VALUES ('base_url', 'https://api.anthropic.com');
INSERT INTO about VALUES ('lineage_key', zeroblob(32));
INSERT INTO jobs VALUES (1, 'job');
INSERT INTO jobs VALUES (2, 'done');
INSERT INTO facts VALUES (1, 1, NULL, NULL, 1800000001.0, 7, CAST('{"type":"Submitted","key":"job","to":"memory:","source":{"type":"IterableSource"},"headers":{"betas":["b-1"]},"tries":2}' AS BLOB));
INSERT INTO facts VALUES (2, 1, 1, 0, 1800000002.0, 7, CAST('{"type":"Planned","part":0,"rows":10,"body_bytes":1000,"spool":"00000001.spool","params_digest":"p","ids_digest":"i","headers":{"betas":["b-1"]}}' AS BLOB));
INSERT INTO facts VALUES (3, 1, 2, 0, 1800000003.0, 7, CAST('{"type":"Planned","part":1,"rows":10,"body_bytes":1000,"spool":"00000002.spool","params_digest":"p","ids_digest":"i","headers":{"betas":["b-1"]}}' AS BLOB));
INSERT INTO facts VALUES (4, 1, 3, 0, 1800000004.0, 7, CAST('{"type":"Planned","part":2,"rows":10,"body_bytes":1000,"spool":"00000003.spool","params_digest":"p","ids_digest":"i","headers":{"betas":["b-1"]}}' AS BLOB));
INSERT INTO facts VALUES (5, 1, 4, 0, 1800000005.0, 7, CAST('{"type":"Planned","part":3,"rows":10,"body_bytes":1000,"spool":"00000004.spool","params_digest":"p","ids_digest":"i","headers":{"betas":["b-1"]}}' AS BLOB));
INSERT INTO facts VALUES (6, 1, 5, 0, 1800000006.0, 7, CAST('{"type":"Planned","part":4,"rows":10,"body_bytes":1000,"spool":"00000005.spool","params_digest":"p","ids_digest":"i","headers":{"betas":["b-1"]}}' AS BLOB));
INSERT INTO facts VALUES (7, 1, 6, 0, 1800000007.0, 7, CAST('{"type":"Planned","part":5,"rows":10,"body_bytes":1000,"spool":"00000006.spool","params_digest":"p","ids_digest":"i","headers":{"betas":["b-1"]}}' AS BLOB));
INSERT INTO facts VALUES (8, 1, 7, 0, 1800000008.0, 7, CAST('{"type":"Planned","part":6,"rows":10,"body_bytes":1000,"spool":"00000007.spool","params_digest":"p","ids_digest":"i","headers":{"betas":["b-1"]}}' AS BLOB));
INSERT INTO facts VALUES (9, 1, 8, 0, 1800000009.0, 7, CAST('{"type":"Planned","part":7,"rows":10,"body_bytes":1000,"spool":"00000008.spool","params_digest":"p","ids_digest":"i","headers":{"betas":["b-1"]}}' AS BLOB));
INSERT INTO facts VALUES (10, 1, 9, 0, 1800000010.0, 7, CAST('{"type":"Planned","part":8,"rows":10,"body_bytes":1000,"spool":"00000009.spool","params_digest":"p","ids_digest":"i","headers":{"betas":["b-1"]}}' AS BLOB));
INSERT INTO facts VALUES (11, 1, NULL, 0, 1800000011.0, 7, CAST('{"type":"Cut","rows":90,"digest":"d","last":true}' AS BLOB));
INSERT INTO facts VALUES (12, 1, 2, 1, 1800000012.0, 7, CAST('{"type":"Committing","attempt":1,"date":1800000000.0,"fingerprint":"0123456789abcdef"}' AS BLOB));
INSERT INTO facts VALUES (13, 1, 2, 2, 1800000013.0, 7, CAST('{"type":"Unreadable","status":200}' AS BLOB));
INSERT INTO facts VALUES (14, 1, 3, 1, 1800000014.0, 7, CAST('{"type":"Committing","attempt":1,"date":1800000000.0,"fingerprint":"0123456789abcdef"}' AS BLOB));
INSERT INTO facts VALUES (15, 1, 3, 2, 1800000015.0, 7, CAST('{"type":"Held","reason":"no batch can be found, and unresolved creates are to be held"}' AS BLOB));
INSERT INTO facts VALUES (16, 1, 4, 1, 1800000016.0, 7, CAST('{"type":"Committing","attempt":1,"date":1800000000.0,"fingerprint":"0123456789abcdef"}' AS BLOB));
INSERT INTO facts VALUES (17, 1, 4, 2, 1800000017.0, 7, CAST('{"type":"Accepted","batch_id":"msgbatch_4","created_at":1800000004.0}' AS BLOB));
INSERT INTO facts VALUES (18, 1, 5, 1, 1800000018.0, 7, CAST('{"type":"Committing","attempt":1,"date":1800000000.0,"fingerprint":"0123456789abcdef"}' AS BLOB));
INSERT INTO facts VALUES (19, 1, 5, 2, 1800000019.0, 7, CAST('{"type":"Found","batch_id":"msgbatch_5","created_at":1800000005.0,"by":"tag"}' AS BLOB));
INSERT INTO facts VALUES (20, 1, 5, 3, 1800000020.0, 7, CAST('{"type":"Ended","counts":{"succeeded":10}}' AS BLOB));
INSERT INTO facts VALUES (21, 1, 6, 1, 1800000021.0, 7, CAST('{"type":"Committing","attempt":1,"date":1800000000.0,"fingerprint":"0123456789abcdef"}' AS BLOB));
INSERT INTO facts VALUES (22, 1, 6, 2, 1800000022.0, 7, CAST('{"type":"Rejected","error":"{\"type\":\"error\",\"error\":{\"type\":\"request_too_large\",\"message\":\"too large\"}}"}' AS BLOB));
INSERT INTO facts VALUES (23, 1, 7, 1, 1800000023.0, 7, CAST('{"type":"Committing","attempt":1,"date":1800000000.0,"fingerprint":"0123456789abcdef"}' AS BLOB));
INSERT INTO facts VALUES (24, 1, 7, 2, 1800000024.0, 7, CAST('{"type":"Accepted","batch_id":"msgbatch_7","created_at":1800000007.0}' AS BLOB));
INSERT INTO facts VALUES (25, 1, 7, 3, 1800000025.0, 7, CAST('{"type":"Ended","counts":{"succeeded":8,"expired":1}}' AS BLOB));
INSERT INTO facts VALUES (26, 1, 7, 4, 1800000026.0, 7, CAST('{"type":"Drained","counts":{"succeeded":8},"sealed":{"part":6,"lines":8,"detail":{"bytes":80,"crc32":7}},"spend":[{"model":"m","usage":{"input_tokens":8,"output_tokens":16,"cache_read_tokens":0,"cache_creation_tokens":0,"cache_creation_1h_tokens":0}}],"retried":1,"missing":1,"gone":"1 results are not in what the API sends, after 6 reads"}' AS BLOB));
INSERT INTO facts VALUES (27, 1, 10, 0, 1800000027.0, 7, CAST('{"type":"Planned","part":9,"rows":1,"body_bytes":1000,"spool":"retry-00000007.spool","params_digest":"p","ids_digest":"i","headers":{"betas":["b-1"]},"parent":7,"trial":2}' AS BLOB));
INSERT INTO facts VALUES (28, 1, 8, 1, 1800000028.0, 7, CAST('{"type":"Split","into":[11,12]}' AS BLOB));
INSERT INTO facts VALUES (29, 1, 11, 0, 1800000029.0, 7, CAST('{"type":"Planned","part":10,"rows":5,"body_bytes":1000,"spool":"00000011.spool","params_digest":"p","ids_digest":"i","headers":{"betas":["b-1"]},"parent":8}' AS BLOB));
INSERT INTO facts VALUES (30, 1, 12, 0, 1800000030.0, 7, CAST('{"type":"Planned","part":11,"rows":5,"body_bytes":1000,"spool":"00000012.spool","params_digest":"p","ids_digest":"i","headers":{"betas":["b-1"]},"parent":8}' AS BLOB));
INSERT INTO facts VALUES (31, 1, 9, 1, 1800000031.0, 7, CAST('{"type":"Committing","attempt":1,"date":1800000000.0,"fingerprint":"0123456789abcdef"}' AS BLOB));
INSERT INTO facts VALUES (32, 1, 9, 2, 1800000032.0, 7, CAST('{"type":"Withdrawn","why":"429"}' AS BLOB));
INSERT INTO facts VALUES (33, 1, 9, 3, 1800000033.0, 7, CAST('{"type":"Abandoned","why":"the job was cancelled before this shard was sent","counts":{"canceled":10},"sealed":{"part":8,"lines":10}}' AS BLOB));
INSERT INTO facts VALUES (34, 1, NULL, NULL, 1800000034.0, 7, CAST('{"type":"DuplicateSeen","shard":9,"attempt":1,"batch_id":"msgbatch_dup"}' AS BLOB));
INSERT INTO facts VALUES (35, 1, NULL, NULL, 1800000035.0, 7, CAST('{"type":"Stopped","reason":"r","remedy":"m"}' AS BLOB));
INSERT INTO facts VALUES (36, 1, NULL, NULL, 1800000036.0, 7, CAST('{"type":"Resumed"}' AS BLOB));
INSERT INTO facts VALUES (37, 1, NULL, NULL, 1800000037.0, 7, CAST('{"type":"ResolveWished","shard":3,"attempt":1}' AS BLOB));
INSERT INTO facts VALUES (38, 2, NULL, NULL, 1800000038.0, 7, CAST('{"type":"Submitted","key":"done","to":"jsonl:///r.jsonl","source":{"type":"FileSource","path":"in.jsonl","size":10,"mtime_ns":5,"sha256":"00","rows":0}}' AS BLOB));
INSERT INTO facts VALUES (39, 2, NULL, 0, 1800000039.0, 7, CAST('{"type":"Cut","rows":0,"last":true}' AS BLOB));
INSERT INTO facts VALUES (40, 2, NULL, NULL, 1800000040.0, 7, CAST('{"type":"CancelWished"}' AS BLOB));
INSERT INTO facts VALUES (41, 2, NULL, 1, 1800000041.0, 7, CAST('{"type":"Finished","location":"/r.jsonl"}' AS BLOB));
PRAGMA user_version = 2;
