//! [`RedisFault`]: reasons why a call to Redis failed.

use std::fmt;

use redis::{ErrorKind, RedisError};

use crate::limit::redis::rights;

/// The reason why a call to Redis failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RedisFault {
    /// It is busy with a script that does not end (`BUSY`).
    Busy,
    /// The server is a node of a Redis Cluster, which
    /// [`warm_up`](crate::limit::RedisLimiter::warm_up) rejects.
    Cluster,
    /// The cluster does not serve the slot of the budget, or is down (`CLUSTERDOWN`).
    ClusterDown,
    /// The user lacks a right (`NOPERM`, or an ACL failure in the script). The log names it.
    /// A limiter needs `~tg:* +evalsha +script|load +get +set +del +time`, and `+select` if the
    /// URL names a database.
    Forbidden,
    /// It still reads its data from disk (`LOADING`).
    Loading,
    /// It answered with something else than what was asked for.
    Malformed,
    /// A replica has lost its primary (`MASTERDOWN`), or a primary its replicas
    /// (`NOREPLICAS`).
    MasterDown,
    /// The server is a node of a Redis Cluster, and the budget is on another node (`MOVED`,
    /// `ASK`, `CROSSSLOT`). Only this budget is affected.
    Moved,
    /// There is no tokio runtime to ask it on.
    NoRuntime,
    /// An error that has no name here.
    Other,
    /// It has no memory left (`OOM`), or cannot write to its disk (`MISCONF`).
    OutOfMemory,
    /// It is a replica, as after a failover (`READONLY`).
    ReadOnly,
    /// It lost the script again while it was told it.
    ScriptLost,
    /// It took longer than the deadline.
    TimedOut,
    /// The TLS handshake failed, for instance because the CA of the server's certificate is not
    /// trusted. The log has the cause.
    Tls,
    /// It has more clients than it may have.
    TooManyClients,
    /// The slot of the budget is migrating to another node of a cluster (`TRYAGAIN`). Only
    /// budgets of this slot are affected.
    TryAgain,
    /// The password is wrong, or missing (`NOAUTH`, `WRONGPASS`).
    Unauthenticated,
    /// There is no connection, or it was cut. The log has the cause.
    Unreachable,
    /// Somebody else keeps something else under the key of a budget (`WRONGTYPE`).
    WrongType,
}

impl RedisFault {
    pub(super) fn of(error: &RedisError) -> Self {
        if let Some(code) = error.code() {
            return Self::of_code(code)
                .or_else(|| wrapped(error.detail().unwrap_or_default()))
                .unwrap_or(Self::Other);
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Unauthenticated,
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::Malformed,
            ErrorKind::Io if error.is_timeout() => Self::TimedOut,
            ErrorKind::Io => Self::Unreachable,
            _ => Self::Other,
        }
    }

    fn of_code(code: &str) -> Option<Self> {
        Some(match code {
            "ASK" | "CROSSSLOT" | "MOVED" => Self::Moved,
            "BUSY" => Self::Busy,
            "CLUSTERDOWN" => Self::ClusterDown,
            "LOADING" => Self::Loading,
            "MASTERDOWN" | "NOREPLICAS" => Self::MasterDown,
            "MISCONF" | "OOM" => Self::OutOfMemory,
            "NOAUTH" | "WRONGPASS" => Self::Unauthenticated,
            "NOPERM" => Self::Forbidden,
            "NOSCRIPT" => Self::ScriptLost,
            "READONLY" => Self::ReadOnly,
            "TRYAGAIN" => Self::TryAgain,
            "WRONGTYPE" => Self::WrongType,
            _ => return None,
        })
    }

    /// Whether somebody has to set something right, and time alone does not help.
    #[must_use]
    pub const fn is_misconfiguration(self) -> bool {
        matches!(
            self,
            Self::Cluster
                | Self::Forbidden
                | Self::Moved
                | Self::NoRuntime
                | Self::OutOfMemory
                | Self::Tls
                | Self::Unauthenticated
                | Self::WrongType
        )
    }

    /// Returns whether only this budget, or its slot, is affected.
    pub(super) const fn is_of_one_key(self) -> bool {
        matches!(self, Self::Moved | Self::TryAgain | Self::WrongType)
    }

    /// Returns the remedy, for the log and for errors.
    pub(super) const fn fix(self) -> Option<&'static str> {
        Some(match self {
            Self::Cluster | Self::ClusterDown | Self::Moved => {
                "connect the limiter to a Redis or Valkey server that is not part of a cluster"
            }
            Self::Forbidden => rights::GRANT,
            Self::NoRuntime => "use the limiter on a tokio runtime",
            Self::OutOfMemory => "raise `maxmemory`, or repair what Redis cannot write to",
            Self::ReadOnly => "connect the limiter to the primary",
            Self::Tls => {
                "trust the CA of the server: pass it to `redis::Client::build_with_tls` and the \
                 client to `RedisLimiter::from_client`"
            }
            Self::Unauthenticated => "correct the user and the password",
            Self::WrongType => {
                "keep other data out of the keys of the limiter, or set another `name`"
            }
            _ => return None,
        })
    }

    /// Whether another connection may lead to a server that can do better.
    pub(super) const fn ends_connection(self) -> bool {
        matches!(
            self,
            Self::Malformed | Self::ReadOnly | Self::Unauthenticated | Self::Unreachable
        )
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Busy => "it is busy with a script",
            Self::Cluster => "the server is a node of a Redis Cluster, which is not supported",
            Self::ClusterDown => "the cluster does not serve the slot of the budget",
            Self::Forbidden => "the user lacks a right",
            Self::Loading => "it is loading its data",
            Self::Malformed => "its answer makes no sense",
            Self::MasterDown => "the primary is down",
            Self::Moved => {
                "the server is a node of a Redis Cluster, and the budget is on another node"
            }
            Self::NoRuntime => "there is no tokio runtime",
            Self::Other => "it answered with an error",
            Self::OutOfMemory => "it cannot store any more",
            Self::ReadOnly => "it is a replica",
            Self::ScriptLost => "it forgets the script",
            Self::TimedOut => "it took too long",
            Self::Tls => "the TLS handshake failed",
            Self::TooManyClients => "it has too many clients",
            Self::TryAgain => "a slot is moving",
            Self::Unauthenticated => "the password is not right",
            Self::Unreachable => "it cannot be reached",
            Self::WrongType => "a key of a budget is used for something else",
        }
    }
}

impl fmt::Display for RedisFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Errors of commands inside of a script have the error of the script around them: before
/// Redis 7, `ERR Error running script (...): @user_script:1: -READONLY You can't write ...`.
fn wrapped(detail: &str) -> Option<RedisFault> {
    if detail.contains("max number of clients") {
        return Some(RedisFault::TooManyClients);
    }
    if rights::is_about_rights(detail) {
        return Some(RedisFault::Forbidden);
    }
    if detail.contains("not allowed in cluster mode") {
        return Some(RedisFault::Cluster);
    }
    let words = detail.split(|char: char| !char.is_ascii_uppercase());
    words
        .filter(|word| word.len() > 2)
        .find_map(RedisFault::of_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: &str) -> RedisFault {
        let error = redis::parse_redis_value(format!("-{line}\r\n").as_bytes())
            .and_then(redis::Value::extract_error)
            .unwrap_err();
        RedisFault::of(&error)
    }

    #[test]
    fn every_error_of_the_server_has_its_name() {
        use RedisFault::*;
        for (line, expected) in [
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                OutOfMemory,
            ),
            (
                "MISCONF Redis is configured to save RDB snapshots",
                OutOfMemory,
            ),
            ("LOADING Redis is loading the dataset in memory", Loading),
            ("MASTERDOWN Link with MASTER is down", MasterDown),
            ("NOREPLICAS Not enough good replicas to write.", MasterDown),
            ("BUSY Redis is busy running a script.", Busy),
            ("CLUSTERDOWN Hash slot not served", ClusterDown),
            ("MOVED 3999 127.0.0.1:6381", Moved),
            ("ASK 3999 127.0.0.1:6381", Moved),
            (
                "CROSSSLOT Keys in request don't hash to the same slot",
                Moved,
            ),
            ("ERR SELECT is not allowed in cluster mode", Cluster),
            (
                "ERR ACL failure in script: User app has no permissions to run the 'time' command \
                 script: 6b1b, on @user_script:12.",
                Forbidden,
            ),
            (
                "ERR Error running script (call to f_6b1b): @user_script:12: @user_script: 12: \
                 The user executing the script can't run this command or subcommand",
                Forbidden,
            ),
            ("NOPERM No permissions to access a key", Forbidden),
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                TryAgain,
            ),
            ("NOAUTH Authentication required.", Unauthenticated),
            ("WRONGPASS invalid username-password pair", Unauthenticated),
            (
                "NOPERM this user has no permissions to run the 'evalsha' command",
                Forbidden,
            ),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                WrongType,
            ),
            ("ERR max number of clients reached", TooManyClients),
            (
                "READONLY You can't write against a read only replica.",
                ReadOnly,
            ),
            (
                "READONLY You can't write against a read only replica. script: f, on @user_script:9.",
                ReadOnly,
            ),
            (
                "ERR Error running script (call to f_6b1b): @user_script:12: @user_script: 12: \
                 -READONLY You can't write against a read only replica.",
                ReadOnly,
            ),
            (
                "ERR Error running script (call to f_6b1b): @user_script:12: -OOM command not \
                 allowed when used memory > 'maxmemory'.",
                OutOfMemory,
            ),
            ("NOSCRIPT No matching script. Please use EVAL.", ScriptLost),
            ("ERR unknown command 'EVALSHA'", Other),
            ("SOMETHING new", Other),
        ] {
            assert_eq!(fault(line), expected, "{line}");
        }
    }
}
