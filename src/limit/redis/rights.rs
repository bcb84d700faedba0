//! The rights that a Redis user needs, and the one that an error says is missing.

use crate::limit::redis::script;

/// The fix for a user that lacks one of the rights.
pub(super) const GRANT: &str = "grant the user `~tg:* +evalsha +script|load +get +set +del +time`, \
                                and `+select` if the URL names a database";

/// Returns the right that the user lacks, as `ACL SETUSER` grants it, from the text of an error
/// without its code.
///
/// The forms of the text:
/// - Redis 6.0 to 7.0: `this user has no permissions to run the 'get' command`, in Redis 6 with
///   `or its subcommand` at its end, and `... to access one of the keys used as arguments`.
/// - Redis 7.2 and Valkey: `User u has no permissions to run the 'get' command` and
///   `No permissions to access a key`; in a script with `ACL failure in script: ` in front.
/// - In a script, up to Redis 7.0: `The user executing the script can't run this command or
///   subcommand`, or `can't access at least one of the keys mentioned in the command arguments`.
///   The command is the one in the line of the script that the text names.
pub(super) fn missing_right(text: &str) -> Option<String> {
    if let Some((_, rest)) = text.split_once("no permissions to run the '") {
        let (command, _) = rest.split_once('\'')?;
        return right_of(command);
    }
    if text.contains("can't run this command or subcommand") {
        let command = command_in(line_of_script(text)?)?;
        return right_of(&command);
    }
    let is_about_keys = text.contains("permissions to access one of the keys")
        || text.contains("permissions to access a key")
        || text.contains("can't access at least one of the keys");
    is_about_keys.then(|| "~tg:*".to_owned())
}

/// Returns whether the text is about rights, even if it does not say which one is missing.
pub(super) fn is_about_rights(text: &str) -> bool {
    missing_right(text).is_some()
        || text.contains("ACL failure in script")
        || text.contains("The user executing the script can't")
}

fn right_of(command: &str) -> Option<String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"|-_".contains(&byte);
    if command.is_empty() || command.len() > 32 || !command.bytes().all(is_name) {
        return None;
    }
    let command = command.to_ascii_lowercase();
    // Before Redis 7 the subcommand is not named.
    Some(match &*command {
        "script" => "+script|load".to_owned(),
        _ => format!("+{command}"),
    })
}

/// Returns the number of the line in `@user_script:12`.
fn line_of_script(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("@user_script:")?;
    let end = rest.find(|char: char| !char.is_ascii_digit());
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

/// Returns the command that a line of the script calls.
fn command_in(line: usize) -> Option<String> {
    let line = script::SOURCE.lines().nth(line.checked_sub(1)?)?;
    let (_, rest) = line.split_once("redis.call('")?;
    let (command, _) = rest.split_once('\'')?;
    Some(command.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(call: &str) -> usize {
        let at = script::SOURCE.lines().position(|line| line.contains(call));
        at.unwrap() + 1
    }

    #[test]
    fn the_missing_right_is_read_from_every_form() {
        let (time, get) = (line("redis.call('TIME'"), line("redis.call('GET', KEYS[1]"));
        for (text, expected) in [
            // Redis 6.0 and 6.2
            (
                "this user has no permissions to run the 'evalsha' command or its subcommand",
                Some("+evalsha"),
            ),
            (
                "this user has no permissions to run the 'script' command or its subcommand",
                Some("+script|load"),
            ),
            (
                "this user has no permissions to run the 'select' command or its subcommand",
                Some("+select"),
            ),
            (
                "this user has no permissions to access one of the keys used as arguments",
                Some("~tg:*"),
            ),
            (
                &format!(
                    "Error running script (call to f_6b1b): @user_script:{time}: @user_script: \
                     {time}: The user executing the script can't run this command or subcommand"
                ),
                Some("+time"),
            ),
            (
                &format!(
                    "Error running script (call to f_6b1b): @user_script:{get}: @user_script: \
                     {get}: The user executing the script can't access at least one of the keys \
                     mentioned in the command arguments"
                ),
                Some("~tg:*"),
            ),
            // Redis 7.0
            (
                "this user has no permissions to run the 'script|load' command",
                Some("+script|load"),
            ),
            (
                &format!(
                    "The user executing the script can't run this command or subcommand script: \
                     6b1b, on @user_script:{get}."
                ),
                Some("+get"),
            ),
            (
                "The user executing the script can't access at least one of the keys mentioned \
                 in the command arguments script: 6b1b, on @user_script:30.",
                Some("~tg:*"),
            ),
            // Redis 7.2 and later, Valkey
            (
                "User app has no permissions to run the 'evalsha' command",
                Some("+evalsha"),
            ),
            (
                "ACL failure in script: User app has no permissions to run the 'time' command \
                 script: 6b1b, on @user_script:12.",
                Some("+time"),
            ),
            ("No permissions to access a key", Some("~tg:*")),
            (
                "ACL failure in script: No permissions to access a key script: 6b1b, on \
                 @user_script:30.",
                Some("~tg:*"),
            ),
            // Nothing that is not the name of a command is printed.
            ("User a has no permissions to run the 'x y' command", None),
            (
                "User a has no permissions to run the 'tg:{1}' command",
                None,
            ),
            ("User a has no permissions to run the '", None),
            (
                "can't run this command or subcommand, on @user_script:0.",
                None,
            ),
            (
                "can't run this command or subcommand, on @user_script:99999999999999999999.",
                None,
            ),
            ("can't run this command or subcommand", None),
            ("index is out of range", None),
        ] {
            assert_eq!(missing_right(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn every_command_of_the_script_is_among_the_needed_rights() {
        for at in 1..=script::SOURCE.lines().count() {
            if let Some(command) = command_in(at) {
                let right = format!("+{}", command.to_lowercase());
                assert!(GRANT.contains(&right), "{right}");
            }
        }
    }
}
