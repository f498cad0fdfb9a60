//! The arguments of every command.

use std::net::SocketAddr;
use std::path::PathBuf;

use anabranch_server::{PatternError, Rights, SpacePattern, TokenError};
use clap::{Args, Parser, Subcommand};

use crate::error::CliError;

/// Offline-first replication: replicas in files, a server, and sync between them.
#[derive(Debug, Parser)]
#[command(name = "anabranch", version, about)]
pub(crate) struct Arguments {
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the whole path: a server, replicas that are cut off and edit, and how they agree again.
    Demo(Demo),
    /// Run a sync server.
    Serve(Serve),
    /// Sign a token for a server that asks for one: for development, and for scripts.
    Token(Token),
    /// Make a replica.
    Init(Init),
    /// Create an entity, or one per line of standard input.
    Create(Create),
    /// Edit an entity: everything in one change.
    Edit(Edit),
    /// Show an entity.
    Get(Get),
    /// Delete an entity; its history stays.
    Delete(Delete),
    /// List the entities of a collection.
    List(List),
    /// Run SQL that reads; each collection is a view.
    Query(Query),
    /// Show the change log.
    Log(Log),
    /// Sync with a server.
    Sync(Sync),
    /// Prove that a replica and its server hold the same, or list what differs. Changes nothing.
    Verify(Verify),
    /// Find what is damaged in a replica's file, and save what can be saved. No process may have it open.
    Repair(Repair),
    /// Show what is pending, and how the sync stands.
    Status(Status),
    /// Show what no server has accepted yet, and why.
    Outbox(Outbox),
    /// Offer what the server has refused again.
    Resend(Resend),
    /// Give up what the server has refused of an entity; later edits are written again without it.
    Discard(Discard),
    /// Bring a deleted entity back.
    Restore(OneEntity),
    /// Purge a deleted entity: its history goes for good, once the server has agreed.
    Purge(OneEntity),
    /// List what waits for a person, or everything that is contested in one entity.
    Conflicts(Conflicts),
    /// Settle a conflict.
    Resolve(Resolve),
    /// Tell why a field shows what it shows: who wrote what when, which rule chose, what lost.
    Why(Why),
    /// Show an entity's history, newest first.
    History(History),
    /// Show what differs between two points of an entity's history.
    Diff(Diff),
    /// Take back this replica's last edit of an entity; what others wrote since stays.
    Undo(OneEntity),
    /// Take back an undo.
    Redo(OneEntity),
    /// Make a replica from what a server has of a space, with the schema that the space carries.
    Clone(Clone),
    /// Work on schemas.
    #[command(subcommand)]
    Schema(Schema),
    /// Sync straight with another replica, without a server.
    #[command(subcommand)]
    Peer(Peer),
}

/// `peer`.
#[derive(Debug, Subcommand)]
pub(crate) enum Peer {
    /// Listen for replicas that dial, and answer them until ctrl-c.
    Listen(PeerListen),
    /// Exchange changes with a replica that listens, both ways.
    Dial(PeerDial),
}

/// What peers share.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("token").required(true)))]
pub(crate) struct PeerToken {
    /// The file that holds the token: a long random text, the same for both. White space around it does not count.
    #[arg(long, value_name = "FILE", group = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// The environment variable that holds it.
    #[arg(long, value_name = "NAME", group = "token")]
    pub(crate) token_env: Option<String>,
    /// Exchange this space only; may be given several times. All spaces by default.
    #[arg(long = "space", value_name = "NAME")]
    pub(crate) spaces: Vec<String>,
}

/// `--token-env`.
#[derive(Debug, Args)]
pub(crate) struct ServerToken {
    /// Sign in with the token in this environment variable.
    #[arg(long, value_name = "NAME")]
    pub(crate) token_env: Option<String>,
}

impl ServerToken {
    /// The token; `None` if no variable is named.
    pub(crate) fn read(&self) -> Result<Option<String>, CliError> {
        let unset = |name: &String| CliError::Usage(format!("the environment has no {name}"));
        self.token_env.as_ref().map(|name| std::env::var(name).map_err(|_| unset(name))).transpose()
    }
}

/// `peer listen`.
#[derive(Debug, Args)]
pub(crate) struct PeerListen {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The address to listen on; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:7701", value_name = "ADDR")]
    pub(crate) addr: SocketAddr,
    /// Stop after the first session.
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) token: PeerToken,
}

/// `peer dial`.
#[derive(Debug, Args)]
pub(crate) struct PeerDial {
    /// The replica.
    pub(crate) file: PathBuf,
    /// Where the other listens, like `192.168.1.20:7701`.
    #[arg(value_name = "HOST:PORT")]
    pub(crate) address: String,
    /// Go on until ctrl-c, or until the connection breaks: exchange changes as they come.
    #[arg(long)]
    pub(crate) watch: bool,
    /// How long to try.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", conflicts_with = "watch")]
    pub(crate) timeout: u32,
    #[command(flatten)]
    pub(crate) token: PeerToken,
}

/// `--space`.
#[derive(Debug, Args)]
pub(crate) struct InSpace {
    /// The space.
    #[arg(long, default_value = "main", value_name = "NAME")]
    pub(crate) space: String,
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How many replicas.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) replicas: u8,
    /// A keystroke trace to type (gzipped JSON), dealt out to the replicas; a bundled one by default.
    #[arg(long, value_name = "FILE.json.gz")]
    pub(crate) trace: Option<PathBuf>,
    /// Keep all files in this new or empty folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Also kill a writing process at random moments, and look for everything it had acknowledged.
    #[arg(long)]
    pub(crate) crash: bool,
}

/// `serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where the server keeps its data.
    #[arg(default_value = "./anabranch-data")]
    pub(crate) dir: PathBuf,
    /// The address to listen on; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:7700", value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// Ask for bearer tokens that are signed with the secret in this file (HS256, at least 32 bytes).
    #[arg(long, value_name = "FILE")]
    pub(crate) auth_secret_file: Option<PathBuf>,
    /// Take only tokens for this audience.
    #[arg(long, value_name = "NAME", requires = "auth_secret_file")]
    pub(crate) auth_audience: Option<String>,
    /// Listen on an address that other machines reach, although everyone may read and write everything.
    #[arg(long)]
    pub(crate) allow_public_without_auth: bool,
    /// Spaces to which a replica brings its own changes only, like `home` or `team:*`; may be given again.
    #[arg(long, value_name = "SPACES")]
    pub(crate) relay_own: Vec<SpacePattern>,
    /// How many connections at the same time.
    #[arg(long, default_value_t = 4_096, value_name = "N")]
    pub(crate) max_connections: u32,
    /// How many from one address; behind a proxy, as many as in all.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub(crate) max_connections_per_address: u32,
    /// What all sessions together may hold in memory, in MiB.
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    pub(crate) max_memory: u32,
    /// How much is kept of one entity, in MiB.
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    pub(crate) quota_entity: u32,
    /// How much is kept of one space, in MiB.
    #[arg(long, default_value_t = 8_192, value_name = "MIB")]
    pub(crate) quota_space: u32,
    /// How much is kept of what one principal pushes, in MiB.
    #[arg(long, default_value_t = 32_768, value_name = "MIB")]
    pub(crate) quota_principal: u32,
}

/// `token`.
#[derive(Debug, Args)]
pub(crate) struct Token {
    /// The file with the secret, as the server has it.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: PathBuf,
    /// What may be done where, like `home:rw` or `team:*:r`; may be given again.
    #[arg(long = "space", value_name = "SPACES:RIGHTS", required = true, value_parser = grant)]
    pub(crate) spaces: Vec<(SpacePattern, Rights)>,
    /// How long it is good: `90s`, `15m`, `1h`, `30d`.
    #[arg(long, default_value = "1h", value_parser = seconds)]
    pub(crate) ttl: u64,
    /// Whom it is for: whose quotas and rates count.
    #[arg(long, default_value = "dev", value_name = "NAME")]
    pub(crate) subject: String,
    /// Which audience it is for.
    #[arg(long, value_name = "NAME")]
    pub(crate) audience: Option<String>,
}

fn grant(text: &str) -> Result<(SpacePattern, Rights), String> {
    // A space's name may hold colons; its rights do not.
    let (space, rights) = text.rsplit_once(':').ok_or("it is written SPACES:RIGHTS, like home:rw")?;
    let space = space.parse().map_err(|error: PatternError| error.to_string())?;
    Ok((space, rights.parse().map_err(|error: TokenError| error.to_string())?))
}

fn seconds(text: &str) -> Result<u64, String> {
    let how = || "a time is written like 90s, 15m, 1h or 30d".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(how)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(how()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    seconds.filter(|seconds| (1..=100 * 365 * 86_400).contains(seconds)).ok_or_else(how)
}

/// `init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The new replica's file.
    pub(crate) file: PathBuf,
    /// The schema.
    #[arg(long, value_name = "SCHEMA.toml")]
    pub(crate) schema: PathBuf,
}

/// `create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The collection.
    pub(crate) collection: String,
    /// The fields (`title=Hi stars=3 tags+=food due:=null`), or `-` to read one JSON object per line.
    #[arg(value_name = "FIELD=VALUE", required_unless_present = "data", conflicts_with = "data")]
    pub(crate) fields: Vec<String>,
    /// The fields as a JSON object.
    #[arg(long, value_name = "JSON")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `edit`.
#[derive(Debug, Args)]
#[command(after_help = "The edits, all in one change:
  title=Hi due:=null         a register: text, or JSON
  stars+=1 stars-=1          a counter
  tags+=food tags-=old       a set
  body=… body+=… body[5:8]=abc  a text: whole, at the end, or characters 5 to 8 replaced
  items+=milk items[0]=eggs items[1:2]:='[\"x\"]'  a list
  links[home]=… links-=home  a map")]
pub(crate) struct Edit {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    /// The edits.
    #[arg(value_name = "EDIT", required = true)]
    pub(crate) edits: Vec<String>,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    /// Print just the state, as canonical JSON: equal states are equal bytes.
    #[arg(long)]
    pub(crate) state: bool,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The collection.
    pub(crate) collection: String,
    /// How many at most.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(..i64::from(u32::MAX)))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `query`.
#[derive(Debug, Args)]
pub(crate) struct Query {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The SQL, like `SELECT title, stars FROM notes ORDER BY stars DESC`.
    pub(crate) sql: String,
}

/// `log`.
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// The replica.
    pub(crate) file: PathBuf,
    /// One entity only: its id, or the beginning of it.
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `sync`.
#[derive(Debug, Args)]
pub(crate) struct Sync {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The server, like `http://127.0.0.1:7700`; the one of the last time by default.
    pub(crate) url: Option<String>,
    /// The server, too.
    #[arg(long, value_name = "URL", conflicts_with = "url")]
    pub(crate) server: Option<String>,
    /// Go on with the server even if its history is not the one synced with before: exchange what each side lacks.
    #[arg(long)]
    pub(crate) adopt: bool,
    /// Go on until ctrl-c: push and pull changes as they come, and print every change of the status.
    #[arg(long)]
    pub(crate) watch: bool,
    /// How long to try.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", conflicts_with = "watch")]
    pub(crate) timeout: u32,
    /// Only these collections, from now on; `all` for all of them again.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) collections: Vec<String>,
    #[command(flatten)]
    pub(crate) token: ServerToken,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The server, like `http://127.0.0.1:7700`; the one of the last sync by default.
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// How long to try.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub(crate) timeout: u32,
    #[command(flatten)]
    pub(crate) token: ServerToken,
}

/// `repair`.
#[derive(Debug, Args)]
pub(crate) struct Repair {
    /// The replica.
    pub(crate) file: PathBuf,
    /// Only say what is damaged; change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The schema, should the file's own not be readable.
    #[arg(long, value_name = "SCHEMA.TOML")]
    pub(crate) schema: Option<PathBuf>,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The replica.
    pub(crate) file: PathBuf,
}

/// `outbox`.
#[derive(Debug, Args)]
pub(crate) struct Outbox {
    /// The replica.
    pub(crate) file: PathBuf,
    /// Only what the server has refused.
    #[arg(long)]
    pub(crate) refused: bool,
    /// How many changes at most.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: u32,
}

/// `resend`.
#[derive(Debug, Args)]
pub(crate) struct Resend {
    /// The replica.
    pub(crate) file: PathBuf,
    /// A change, as `outbox` prints it, or an entity, or the beginning of either; everything by default.
    pub(crate) id: Option<String>,
}

/// `discard`.
#[derive(Debug, Args)]
pub(crate) struct Discard {
    /// The replica.
    pub(crate) file: PathBuf,
    /// A change, as `outbox` prints it, or an entity for all that was refused of it, or the beginning of either.
    pub(crate) id: String,
}

/// A command about one entity.
#[derive(Debug, Args)]
pub(crate) struct OneEntity {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `conflicts`.
#[derive(Debug, Args)]
pub(crate) struct Conflicts {
    /// The replica.
    pub(crate) file: PathBuf,
    /// One entity only, with what a policy has settled: its id, or the beginning of it.
    pub(crate) id: Option<String>,
    /// How many at most.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `resolve`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("choice").required(true)))]
pub(crate) struct Resolve {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    /// The field, with the path into it, as `conflicts` prints it.
    pub(crate) field: String,
    /// Take the value of this number, as `conflicts` prints it.
    #[arg(long, value_name = "N", group = "choice")]
    pub(crate) take: Option<usize>,
    /// Take another value: text.
    #[arg(long, value_name = "TEXT", group = "choice")]
    pub(crate) value: Option<String>,
    /// Take another value: JSON.
    #[arg(long, value_name = "JSON", group = "choice")]
    pub(crate) json_value: Option<String>,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `why`.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    /// The field.
    pub(crate) field: String,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `history`.
#[derive(Debug, Args)]
pub(crate) struct History {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    /// How many changes at most.
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `diff`.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    /// From right after this change, as `history` prints it; by default, from before the newest one.
    pub(crate) from: Option<String>,
    /// To right after this change; by default, to now.
    pub(crate) to: Option<String>,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `clone`.
#[derive(Debug, Args)]
pub(crate) struct Clone {
    /// The server, like `http://127.0.0.1:7700`.
    pub(crate) url: String,
    /// The new replica's file.
    pub(crate) file: PathBuf,
    /// How long to try.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub(crate) timeout: u32,
    #[command(flatten)]
    pub(crate) token: ServerToken,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `schema`.
#[derive(Debug, Subcommand)]
pub(crate) enum Schema {
    /// Tell what going from one schema to another does to data that is there.
    Diff(SchemaDiff),
    /// Bring a replica to a new version of its schema.
    Apply(SchemaApply),
}

/// `schema apply`.
#[derive(Debug, Args)]
pub(crate) struct SchemaApply {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The new schema.
    #[arg(value_name = "SCHEMA.toml")]
    pub(crate) schema: PathBuf,
}

/// `schema diff`.
#[derive(Debug, Args)]
pub(crate) struct SchemaDiff {
    /// The schema before.
    #[arg(value_name = "OLD.toml")]
    pub(crate) old: PathBuf,
    /// The schema after.
    #[arg(value_name = "NEW.toml")]
    pub(crate) new: PathBuf,
}
