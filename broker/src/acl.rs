//! `nightjar acl`: what the rules say to one client, and what is odd in a file of rules. Nothing is served and nothing changed.

use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use nightjar_acl::{Action, Identity, Reason, Rules, lint};
use nightjar_codec::topic::{validate_topic_filter, validate_topic_name};

use crate::authorization::{self, Authorization, security_of};
use crate::config::{self, ConfigError};
use crate::session::publish::{is_control_request, may_publish_to};
use crate::settings::{AclSubscribe, ListenerSettings, Settings};

/// Ask what the rules allow, or look for mistakes in them.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct AclArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Eq, PartialEq, Subcommand)]
enum What {
    /// Say whether a client may do something, and which line of which file decides. Exit code 0: yes, 1: no
    Explain(Explain),
    /// Name rules that can never match or change nothing. Exit code 1: there are some
    Lint {
        /// A file of rules
        file: PathBuf,
    },
}

#[derive(Args, Clone, Debug, Eq, PartialEq)]
struct Explain {
    /// The broker's configuration
    #[arg(short = 'c', long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Its user name; without it the client is anonymous
    #[arg(short = 'u', long)]
    user: Option<String>,
    /// Its client id
    #[arg(short = 'i', long, default_value = "")]
    client: String,
    /// The address it connects from
    #[arg(long)]
    address: Option<IpAddr>,
    /// The listener it comes in through: its name or its address. Without it, as on a listener without rules of its own
    #[arg(long)]
    listener: Option<String>,
    action: Asked,
    /// A topic; to subscribe, a topic filter
    topic: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Asked {
    Publish,
    Subscribe,
    Receive,
}

/// What is printed, and whether it is good news.
#[derive(Debug)]
pub struct Outcome {
    pub report: String,
    pub well: bool,
}

/// Why there is no answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum AclError {
    Config(ConfigError),
    Rules(Vec<nightjar_acl::Error>),
    UnknownListener(String),
    NoConfig,
    InvalidTopic(String),
}

impl AclArguments {
    /// `-c FILE` before the command means the same.
    pub fn with_config_file(mut self, file: Option<PathBuf>) -> Self {
        if let What::Explain(explain) = &mut self.what {
            explain.config_file = explain.config_file.take().or(file);
        }
        self
    }
}

/// Does what was asked.
///
/// # Errors
/// A file cannot be used, or what was asked makes no sense.
pub fn run(arguments: &AclArguments) -> Result<Outcome, AclError> {
    match &arguments.what {
        What::Explain(explain) => answer(explain),
        What::Lint { file } => {
            let rules = authorization::read(file).map_err(AclError::Rules)?;
            Ok(report(&rules))
        }
    }
}

fn answer(explain: &Explain) -> Result<Outcome, AclError> {
    let path = explain.config_file.as_ref().ok_or(AclError::NoConfig)?;
    let settings = config::read(path).map_err(AclError::Config)?.settings;
    let authorization = Authorization::load(&settings).map_err(AclError::Rules)?;
    let listener = listener(&settings, explain.listener.as_deref())?;
    let (action, is_valid) = match explain.action {
        Asked::Publish => (Action::Publish, validate_topic_name(&explain.topic)),
        Asked::Subscribe => (Action::Subscribe, validate_topic_filter(&explain.topic)),
        Asked::Receive => (Action::Receive, validate_topic_name(&explain.topic)),
    };
    is_valid.map_err(|_| AclError::InvalidTopic(explain.topic.clone()))?;
    let rules = authorization.rules_for(&settings, &listener);
    let is_asked = is_control_request(&explain.topic, &settings)
        && rules.is_some()
        && listener.mount_point.is_none();
    let is_reserved = action == Action::Publish && !may_publish_to(&explain.topic);
    let (well, reason) = if is_reserved && !is_asked {
        (false, "the topic is the broker's own".to_owned())
    } else if let Some(rules) = rules {
        let mut identity = Identity::new(explain.user.as_deref(), &explain.client);
        identity.address = explain.address;
        let permissions = rules.permissions(identity);
        let explanation = permissions.explain(action, &explain.topic);
        let reason = match explanation.reason {
            Reason::Rule(_) | Reason::UnusableName(_) => {
                format!("{}, {}", rules.file(), explanation.reason)
            }
            _ => format!("{}: {}", rules.file(), explanation.reason),
        };
        (explanation.is_allowed, reason)
    } else {
        (true, "there is no acl_file".to_owned())
    };
    let is_filtered = security_of(&settings, &listener).acl_subscribe == AclSubscribe::Mosquitto;
    let (well, reason) = if action == Action::Subscribe && !well && is_filtered {
        let granted = "granted, as Mosquitto does (acl_subscribe); of what it matches only that is delivered \
             which may be received";
        (true, format!("{granted}. As a rule: {reason}"))
    } else {
        (well, reason)
    };
    let verdict = if well { "allowed" } else { "denied" };
    Ok(Outcome {
        report: format!("{verdict}: {action} {}: {reason}\n", explain.topic),
        well,
    })
}

fn listener(settings: &Settings, name: Option<&str>) -> Result<Arc<ListenerSettings>, AclError> {
    let Some(name) = name else {
        return Ok(Arc::default());
    };
    let is_it = |listener: &&Arc<ListenerSettings>| {
        let endpoint = |endpoint: &crate::settings::Endpoint| endpoint.to_string() == name;
        listener.name.as_deref() == Some(name) || listener.endpoints.iter().any(endpoint)
    };
    let found = settings.listeners.iter().find(is_it);
    found
        .cloned()
        .ok_or_else(|| AclError::UnknownListener(name.into()))
}

fn report(rules: &Rules) -> Outcome {
    let mut report = String::new();
    let warnings = lint(rules);
    for warning in &warnings {
        let _ = writeln!(
            report,
            "{}:{}: {}",
            rules.file(),
            warning.line,
            warning.text
        );
    }
    if warnings.is_empty() {
        let _ = writeln!(report, "{}: nothing to say.", rules.file());
    }
    Outcome {
        report,
        well: warnings.is_empty(),
    }
}

impl fmt::Display for AclError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Rules(errors) => authorization::write_errors(errors, f),
            Self::UnknownListener(name) => write!(f, "There is no listener '{name}'."),
            Self::NoConfig => f.write_str("acl explain needs -c FILE."),
            Self::InvalidTopic(topic) => {
                write!(f, "'{}' is not a topic for that.", topic.escape_debug())
            }
        }
    }
}

impl std::error::Error for AclError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Invocation};

    fn directory(name: &str, rules: &str) -> PathBuf {
        let directory =
            std::env::temp_dir().join(format!("nightjar-acl-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let acl = directory.join("acl");
        std::fs::write(&acl, rules).unwrap();
        std::fs::write(directory.join("toml"), format!("acl_file = {acl:?}\n")).unwrap();
        directory
    }

    fn ask(arguments: &[&str]) -> Outcome {
        let words = ["nightjar", "acl"].iter().chain(arguments);
        match cli::parse(words.map(Into::into)) {
            Ok(Invocation::Acl(arguments)) => run(&arguments).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn explain_names_the_file_and_the_line_that_decides() {
        let directory = directory(
            "explain",
            "topic read a\nuser u\ntopic deny a/b\ntopic write a/#\npattern read %u/%c\n",
        );
        let config = directory.join("toml");
        let config = config.to_str().unwrap();
        for (user, client, action, topic, well, place) in [
            (
                None,
                "",
                "receive",
                "a",
                true,
                "acl, line 1: allow read a for clients without a user name",
            ),
            (None, "", "publish", "a", false, "acl: no rule allows it"),
            (
                Some("u"),
                "",
                "publish",
                "a/b",
                false,
                "acl, line 3: deny everything a/b for user u",
            ),
            (Some("u"), "", "publish", "a/c", true, "acl, line 4: "),
            (Some("u"), "c", "receive", "u/c", true, "acl, line 5: "),
            (
                Some("u"),
                "c",
                "subscribe",
                "u/+",
                false,
                "acl: no rule allows it",
            ),
            (
                Some("u"),
                "c",
                "publish",
                "$SYS/x",
                false,
                "the broker's own",
            ),
            (
                Some("#"),
                "c",
                "receive",
                "x/c",
                false,
                "the user name holds + or #",
            ),
            (
                Some("v"),
                "c/d",
                "receive",
                "v/c/d",
                false,
                "acl: no rule allows it",
            ),
        ] {
            let user: Vec<&str> = user.map_or(Vec::new(), |user| vec!["--user", user]);
            let fixed = ["explain", "-c", config, "--client", client, action, topic];
            let outcome = ask(&[&fixed[..1], &user, &fixed[1..]].concat());
            assert_eq!(outcome.well, well, "{}", outcome.report);
            assert!(outcome.report.contains(place), "{}", outcome.report);
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn explain_knows_when_the_broker_may_be_asked() {
        let directory = directory("control", "user u\ntopic write $CONTROL/#\n");
        let config = directory.join("toml");
        let rules = std::fs::read_to_string(&config).unwrap();
        let on = "control_api = true\n";
        let request = "$CONTROL/broker/v1";
        for (text, user, topic, well) in [
            (format!("{on}{rules}"), "u", request, true),
            (format!("{on}{rules}"), "u", "$CONTROL/broker/v2", false),
            (format!("{on}{rules}"), "v", request, false),
            (rules, "u", request, false),
            (on.to_owned(), "u", request, false),
        ] {
            std::fs::write(&config, &text).unwrap();
            let file = config.to_str().unwrap();
            let outcome = ask(&["explain", "-c", file, "--user", user, "publish", topic]);
            assert_eq!(outcome.well, well, "{text}{}", outcome.report);
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn explain_says_of_a_subscription_what_its_client_would_hear() {
        let directory = directory("subscribe", "topic read a/b\n");
        let acl = directory.join("acl");
        let conf = directory.join("mosquitto.conf");
        std::fs::write(
            &conf,
            format!("listener 1883\nacl_file {}\n", acl.display()),
        )
        .unwrap();
        let toml = directory.join("toml");
        for (file, well, expected) in [
            (&toml, false, "denied: subscribe a/+: "),
            (
                &conf,
                true,
                "allowed: subscribe a/+: granted, as Mosquitto does (acl_subscribe); of what it matches only that is \
                 delivered which may be received. As a rule: ",
            ),
        ] {
            let file = file.to_str().unwrap();
            let outcome = ask(&["explain", "-c", file, "subscribe", "a/+"]);
            assert_eq!(outcome.well, well);
            assert!(outcome.report.starts_with(expected), "{}", outcome.report);
            assert!(outcome.report.ends_with("acl: no rule allows it\n"));
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn lint_names_every_filter_that_is_not_legal() {
        let directory = directory(
            "illegal",
            "user u\ntopic read a/#/b\ntopic write b\ntopic c+\n",
        );
        let file = directory.join("acl");
        let lint = AclArguments {
            what: What::Lint { file },
        };
        let error = run(&lint).unwrap_err().to_string();
        for expected in [
            "\"a/#/b\" in acl_file",
            "\"c+\" in acl_file",
            "line 2",
            "line 4",
        ] {
            assert!(error.contains(expected), "{error}");
        }
        assert!(!error.contains("line 3"), "{error}");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn lint_finds_the_deny_that_swallows_an_allowance() {
        let directory = directory(
            "lint",
            "user gw\ntopic deny acme/#\ntopic read acme/1/command/#\ntopic write x/%u\n\
             topic read $share/g/a\npattern write plain/#\npattern read c/%c\npattern read c/%c\n",
        );
        let file = directory.join("acl");
        let outcome = ask(&["lint", file.to_str().unwrap()]);
        assert!(!outcome.well);
        for expected in [
            "acl:3: allow read acme/1/command/# for user gw: never matches: line 2 denies acme/#",
            "acl:4: allow publish x/%u for user gw: %u and %c stand for names in 'pattern' lines only",
            "acl:5: allow read $share/g/a for user gw: never matches",
            "acl:6: ACL pattern 'plain/#' does not contain '%c' or '%u'.",
            "acl:8: allow read c/%c for everybody: changes nothing: line 7 allows it already.",
        ] {
            assert!(
                outcome.report.contains(expected),
                "{expected}\n{}",
                outcome.report
            );
        }
        assert_eq!(outcome.report.lines().count(), 5, "{}", outcome.report);
        std::fs::write(&file, "topic read a/#\ntopic write b\n").unwrap();
        assert!(ask(&["lint", file.to_str().unwrap()]).well);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
