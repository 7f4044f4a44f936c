-- A workspace's database as the first schema had it: a session with finished, running and waiting runs,
-- text that was appended, a child session and a deleted one. It is data to migrate; never edit it.
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'atrio.workspace','0001_first','2026-11-20 11:35:32.382947+00:00');
CREATE TABLE "appended" (
   "id" INTEGER PRIMARY KEY,
   "session_id" TEXT NOT NULL,
   "message_id" TEXT NOT NULL,
   "part" INTEGER NOT NULL,
   "field" TEXT NOT NULL,
   "text" TEXT NOT NULL
) STRICT;
INSERT INTO "appended" VALUES(1,'s1','m6',0,'text',' of an answer');
CREATE TABLE "deleted" (
   "session_id" TEXT PRIMARY KEY
) STRICT;
INSERT INTO "deleted" VALUES('gone');
CREATE TABLE "messages" (
   "id" INTEGER PRIMARY KEY,
   "message_id" TEXT NOT NULL,
   "session_id" TEXT NOT NULL,
   "run_id" TEXT,
   "position" INTEGER NOT NULL,
   "role" TEXT NOT NULL,
   "summary" INTEGER NOT NULL,
   "finished" INTEGER NOT NULL,
   "updated_at" TEXT NOT NULL,
   "body" TEXT NOT NULL
) STRICT;
INSERT INTO "messages" VALUES(1,'m1','s1','r1',1,'user',0,0,'2026-11-20T10:00:00.000Z','{"messageId":"m1","sessionId":"s1","runId":"r1","order":1,"role":"user","parts":[{"type":"text","text":"please find it"}],"summary":false,"createdAt":"2026-11-20T10:00:00.000Z","updatedAt":"2026-11-20T10:00:00.000Z"}');
INSERT INTO "messages" VALUES(2,'m2','s1','r1',2,'assistant',0,1,'2026-11-20T10:00:00.000Z','{"messageId":"m2","sessionId":"s1","runId":"r1","order":2,"role":"assistant","parts":[{"type":"text","text":"I look"},{"type":"reasoning","text":"where is it"},{"type":"tool_call","toolCallId":"t1","name":"read","title":"Read a.py","kind":"read","input":{"path":"a.py"},"status":"completed"}],"finish":{"reason":"tool_use","at":"2026-11-20T10:00:00.000Z"},"summary":false,"createdAt":"2026-11-20T10:00:00.000Z","updatedAt":"2026-11-20T10:00:00.000Z"}');
INSERT INTO "messages" VALUES(3,'m3','s1','r1',3,'tool',0,0,'2026-11-20T10:00:00.000Z','{"messageId":"m3","sessionId":"s1","runId":"r1","order":3,"role":"tool","parts":[{"type":"tool_result","toolCallId":"t1","name":"read","content":[{"type":"text","text":"x = 1"}],"isError":false}],"summary":false,"createdAt":"2026-11-20T10:00:00.000Z","updatedAt":"2026-11-20T10:00:00.000Z"}');
INSERT INTO "messages" VALUES(4,'m4','s1','r1',4,'assistant',0,1,'2026-11-20T10:00:00.000Z','{"messageId":"m4","sessionId":"s1","runId":"r1","order":4,"role":"assistant","parts":[{"type":"text","text":"found in a.py"}],"finish":{"reason":"end_turn","at":"2026-11-20T10:00:00.000Z"},"summary":false,"createdAt":"2026-11-20T10:00:00.000Z","updatedAt":"2026-11-20T10:00:00.000Z"}');
INSERT INTO "messages" VALUES(5,'m5','s1','r2',5,'user',0,0,'2026-11-20T10:00:00.000Z','{"messageId":"m5","sessionId":"s1","runId":"r2","order":5,"role":"user","parts":[{"type":"text","text":"and again"},{"type":"image","mimeType":"image/png","data":"AAAA"}],"summary":false,"createdAt":"2026-11-20T10:00:00.000Z","updatedAt":"2026-11-20T10:00:00.000Z"}');
INSERT INTO "messages" VALUES(6,'m6','s1','r2',6,'assistant',0,0,'2026-11-20T10:00:00.000Z','{"messageId":"m6","sessionId":"s1","runId":"r2","order":6,"role":"assistant","parts":[{"type":"text","text":"half"}],"summary":false,"createdAt":"2026-11-20T10:00:00.000Z","updatedAt":"2026-11-20T10:00:00.000Z"}');
INSERT INTO "messages" VALUES(7,'c1','s2',NULL,1,'assistant',0,1,'2026-11-20T10:00:00.000Z','{"messageId":"c1","sessionId":"s2","order":1,"role":"assistant","parts":[{"type":"text","text":"child says"}],"finish":{"reason":"end_turn","at":"2026-11-20T10:00:00.000Z"},"summary":false,"createdAt":"2026-11-20T10:00:00.000Z","updatedAt":"2026-11-20T10:00:00.000Z"}');
CREATE TABLE "meta" (
   "key" TEXT PRIMARY KEY,
   "value" TEXT NOT NULL
) STRICT;
INSERT INTO "meta" VALUES('workspace_id','wo2jmhljvic5ya');
INSERT INTO "meta" VALUES('workspace_path','/one');
INSERT INTO "meta" VALUES('generation','1');
INSERT INTO "meta" VALUES('closed','yes');
CREATE TABLE "runs" (
   "run_id" TEXT PRIMARY KEY,
   "session_id" TEXT NOT NULL,
   "accept_seq" INTEGER NOT NULL,
   "state" TEXT NOT NULL,
   "started" INTEGER NOT NULL,
   "client_made" INTEGER NOT NULL,
   "digest" TEXT NOT NULL,
   "body" TEXT NOT NULL,
   "prompt" TEXT
) STRICT;
INSERT INTO "runs" VALUES('r1','s1',1,'completed',1,1,'digest of r1','{"runId":"r1","sessionId":"s1","acceptSeq":1,"state":"completed","delivery":"queue","kind":"prompt","author":{"clientId":"11111111-1111-1111-1111-111111111111","name":"Alice"},"promptText":"do r1","attachments":[],"stopReason":"end_turn","text":"done","acceptedAt":"2026-11-20T10:00:00.000Z","startedAt":"2026-11-20T10:00:00.000Z","finishedAt":"2026-11-20T10:00:00.000Z"}',NULL);
INSERT INTO "runs" VALUES('r2','s1',2,'running',1,0,'digest of r2','{"runId":"r2","sessionId":"s1","acceptSeq":2,"state":"running","delivery":"queue","kind":"prompt","author":{"clientId":"11111111-1111-1111-1111-111111111111","name":"Alice"},"promptText":"do r2","attachments":[],"acceptedAt":"2026-11-20T10:00:00.000Z","startedAt":"2026-11-20T10:00:00.000Z"}','[{"type":"text","text":"do r2"}]');
INSERT INTO "runs" VALUES('r3','s1',3,'queued',0,1,'digest of r3','{"runId":"r3","sessionId":"s1","acceptSeq":3,"state":"queued","delivery":"queue","kind":"prompt","author":{"clientId":"11111111-1111-1111-1111-111111111111","name":"Alice"},"promptText":"do r3","attachments":[],"acceptedAt":"2026-11-20T10:00:00.000Z"}','[{"type":"text","text":"do r3"}]');
CREATE TABLE "sessions" (
   "id" INTEGER PRIMARY KEY,
   "session_id" TEXT NOT NULL,
   "parent_session_id" TEXT,
   "root_session_id" TEXT,
   "title" TEXT NOT NULL,
   "title_is_final" INTEGER NOT NULL,
   "model" TEXT,
   "message_count" INTEGER NOT NULL,
   "usage" TEXT NOT NULL,
   "rev" INTEGER NOT NULL,
   "generation" INTEGER NOT NULL,
   "touched" INTEGER NOT NULL,
   "created_at" TEXT NOT NULL,
   "updated_at" TEXT NOT NULL
) STRICT;
INSERT INTO "sessions" VALUES(1,'s1',NULL,NULL,'Find the naïve Straße',1,'openai/one',4,'{"inputTokens":0,"outputTokens":0,"contextTokens":0,"estimated":false}',17,1,1,'2026-11-20T10:00:00.000Z','2026-10-03T08:00:00.000Z');
INSERT INTO "sessions" VALUES(2,'s2','s1','s1','子 child',0,NULL,0,'{"inputTokens":0,"outputTokens":0,"contextTokens":0,"estimated":false}',1,1,2,'2026-11-20T10:00:00.000Z','2026-10-02T08:00:00.000Z');
CREATE TABLE "texts" (
   "id" INTEGER PRIMARY KEY,
   "source_id" TEXT NOT NULL,
   "session_id" TEXT NOT NULL,
   "text" TEXT NOT NULL
) STRICT;
INSERT INTO "texts" VALUES(1,'s1','s1','Find the naïve Straße');
INSERT INTO "texts" VALUES(2,'s2','s2','子 child');
INSERT INTO "texts" VALUES(4,'m1','s1','please find it');
INSERT INTO "texts" VALUES(5,'m2','s1','I look');
INSERT INTO "texts" VALUES(6,'m4','s1','found in a.py');
INSERT INTO "texts" VALUES(7,'m5','s1','and again');
INSERT INTO "texts" VALUES(8,'c1','s2','child says');
CREATE VIRTUAL TABLE "texts_fts" USING FTS5 (
    "text",
    tokenize='unicode61 remove_diacritics 2',
    content="texts"
);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE UNIQUE INDEX "idx_sessions_session_id"
    ON "sessions" ("session_id");
CREATE INDEX "idx_sessions_updated_at_touched"
    ON "sessions" ("updated_at", "touched");
CREATE INDEX "idx_sessions_parent_session_id_updated_at_touched"
    ON "sessions" ("parent_session_id", "updated_at", "touched");
CREATE UNIQUE INDEX "idx_messages_message_id"
    ON "messages" ("message_id");
CREATE INDEX "idx_messages_session_id_position"
    ON "messages" ("session_id", "position");
CREATE INDEX messages_unfinished ON messages (session_id) WHERE role = 'assistant' AND finished = 0;
CREATE INDEX messages_summaries ON messages (session_id, position) WHERE summary = 1;
CREATE INDEX "idx_appended_session_id_message_id"
    ON "appended" ("session_id", "message_id");
CREATE INDEX "idx_runs_session_id_accept_seq"
    ON "runs" ("session_id", "accept_seq");
CREATE INDEX runs_open ON runs (session_id, accept_seq) WHERE state != 'completed';
CREATE INDEX runs_client_made ON runs (run_id, session_id) WHERE client_made = 1;
CREATE UNIQUE INDEX "idx_texts_source_id"
    ON "texts" ("source_id");
CREATE INDEX "idx_texts_session_id"
    ON "texts" ("session_id");
CREATE TRIGGER "texts_ai" AFTER INSERT ON "texts" BEGIN
  INSERT INTO "texts_fts" (rowid, "text") VALUES (new.rowid, new."text");
END;
CREATE TRIGGER "texts_ad" AFTER DELETE ON "texts" BEGIN
  INSERT INTO "texts_fts" ("texts_fts", rowid, "text") VALUES('delete', old.rowid, old."text");
END;
CREATE TRIGGER "texts_au" AFTER UPDATE ON "texts" BEGIN
  INSERT INTO "texts_fts" ("texts_fts", rowid, "text") VALUES('delete', old.rowid, old."text");
  INSERT INTO "texts_fts" (rowid, "text") VALUES (new.rowid, new."text");
END;
INSERT INTO "texts_fts" ("texts_fts") VALUES ('rebuild');
COMMIT;
