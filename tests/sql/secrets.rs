//! No password, and nothing of what sessions contain, in any error or log line: planted ones, through each way to fail.
use std::{fmt::Write as _, time::Duration};

use cloakroom::{Cache, CacheError, PostgresCache, SqlTables};

use crate::{
    shared::{entry, expiry, shown},
    support::{
        log::Log,
        postgres_server::{PgBouncer, PostgresServer},
        process::{Directory, give},
        sql_proxy::{Mode, Proxy},
    },
};

const SECRETS: [&str; 5] = ["pa55w0rd", "secret-key", "secret-value", "secret-list", "secret-member"];

struct Shown(String);

impl Shown {
    /// Every operation: those that fail leave a text.
    async fn all_operations(&mut self, what: &str, cache: &PostgresCache) {
        let version = entry("x").version;
        let end = expiry().end;
        let outcomes: [Option<CacheError>; 9] = [
            cache.get("secret-key").await.err(),
            cache.get_and_touch("secret-key", Duration::ZERO).await.err(),
            cache.insert("secret-key", entry("secret-value"), expiry()).await.err(),
            cache.replace("secret-key", version, entry("secret-value"), expiry()).await.err(),
            cache.touch("secret-key").await.err(),
            cache.delete("secret-key", version).await.err(),
            cache.list_add("secret-list", "secret-member", end).await.err(),
            cache.list_remove("secret-list", &["secret-member".to_owned()]).await.err(),
            cache.list_page("secret-list", None, 9).await.err(),
        ];
        let failed = outcomes.iter().flatten().count();
        assert!(failed > 0, "{what}: nothing failed");
        outcomes.iter().flatten().for_each(|error| self.add(what, error));
        let _ = write!(self.0, "\n{what}: {cache:?}");
    }

    fn add(&mut self, what: &str, error: &CacheError) {
        let _ = write!(self.0, "\n{what}: {}", shown(error));
    }
}

#[tokio::test]
async fn no_error_and_no_log_line_tells_a_secret() {
    let (log, _recording) = Log::record();
    let mut seen = Shown(String::new());

    let hba = Directory::new("hba");
    let file = hba.path().join("pg_hba.conf");
    std::fs::write(&file, "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n").unwrap();
    give(&file);
    let mut server = PostgresServer::start_with(&[&format!("hba_file={}", file.display())]);
    server.sql("CREATE ROLE web LOGIN PASSWORD 'pa55w0rd'");
    let url = server.url().replace("postgres@", "web:pa55w0rd@");
    let builder = |url: &str| PostgresCache::builder(url).timeout(Duration::from_millis(300)).fail_fast(false);
    let _ = write!(seen.0, "{:?}", builder(&url));

    for wrong in [
        url.replace("pa55w0rd", "pa55w0rdX"),
        url.replace("/postgres", "/absent?password=pa55w0rd"),
        url.replace("127.0.0.1", "absent.invalid"),
        url.replace("127.0.0.1:", "127.0.0.1:pa55w0rd"),
        format!("{url}?sslmode=verify-full"),
        format!("{url}?sslmode=pa55w0rd"),
        "pa55w0rd".to_owned(),
    ] {
        seen.add("connecting", &builder(&wrong).build().await.err().unwrap_or_else(|| panic!("it connects: {wrong}")));
    }
    let cache = builder(&url).build_lazy().unwrap();
    seen.all_operations("no table", &cache).await;
    let owner = PostgresCache::builder(server.url()).timeout(Duration::from_secs(20)).build().await.unwrap();
    owner.migrate().await.unwrap();
    seen.all_operations("no rights", &cache).await;
    seen.add("no rights", &cache.sweep(9).await.unwrap_err());
    seen.add(
        "no rights",
        &builder(&url).tables(SqlTables::named("x").unwrap()).build_lazy().unwrap().migrate().await.unwrap_err(),
    );

    server.sql("GRANT ALL ON cloakroom_sessions, cloakroom_sessions_lists TO web");
    for code in ["23514", "40001", "53100", "57014", "58030", "XX000", "0A000", "26000", "22P02"] {
        for table in ["cloakroom_sessions", "cloakroom_sessions_lists"] {
            server.sql(&format!(
                "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                   RAISE EXCEPTION 'secret-value pa55w0rd' USING ERRCODE = '{code}', DETAIL = 'secret-key', HINT = 'pa55w0rd';
                 END $$;
                 DROP TRIGGER IF EXISTS fail ON {table};
                 CREATE TRIGGER fail BEFORE INSERT OR UPDATE OR DELETE ON {table} EXECUTE FUNCTION fail()"
            ));
        }
        seen.all_operations(code, &cache).await;
    }
    server.sql("DROP TRIGGER fail ON cloakroom_sessions; DROP TRIGGER fail ON cloakroom_sessions_lists");

    // Behind a pooler statements go out with the values in them, and answers are lost.
    let proxy = Proxy::before(server.port()).await;
    let pooled = builder(&url.replace(&server.port().to_string(), &proxy.port().to_string())).transaction_pooler();
    let pooled = pooled.build_lazy().unwrap();
    proxy.set(Mode::CutAnswer(b"INSERT"));
    seen.all_operations("a lost answer", &pooled).await;
    server.sql("REVOKE ALL ON cloakroom_sessions, cloakroom_sessions_lists FROM web");
    seen.all_operations("no rights, values in the statement", &pooled).await;
    let pooler = PgBouncer::before(&server, 2);
    let error = builder(&pooler.url()).build().await.err();
    seen.add("a pooler", &error.expect("it refuses a setting"));

    let _near = builder(&url).timeout(Duration::from_secs(20)).near_cache(1 << 20).build().await.unwrap();
    server.pause();
    seen.all_operations("it hangs", &cache).await;
    server.resume();
    server.kill();
    seen.all_operations("it is gone", &cache).await;
    let fast = PostgresCache::builder(&url).timeout(Duration::from_millis(100)).build_lazy().unwrap();
    seen.all_operations("it is gone", &fast).await;

    let lines = log.text();
    for event in ["sql_refusing", "postgres_near_cache_lost"] {
        assert!(lines.contains(event), "log lines are not seen: {lines}");
    }
    for secret in SECRETS {
        assert!(!seen.0.contains(secret), "{secret} in {}", seen.0);
        let line = lines.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} in {line:?}");
    }
}
