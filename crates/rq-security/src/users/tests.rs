//! The decision matrix, the rules of the credentials file, and its reload.

use std::fs;

use tempfile::TempDir;

use super::*;

const HASH_OF_SESAME: &str = "$argon2id$v=19$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$\
     OQp8YeMUBvG4x+00oVFI7kWaxTZR2gt4mcips6gwLvc";

struct Fixture {
    users: Users,
    path: PathBuf,
    _folder: TempDir,
}

fn open(json: &str) -> Result<Fixture, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.json");
    fs::write(&path, json).unwrap();
    let users = Users::open_watched(path.clone(), Duration::ZERO)?;
    Ok(Fixture { users, path, _folder: folder })
}

impl Fixture {
    /// Asks as `name:password`, or as nobody with the empty text.
    fn ask(&self, caller: &str, permission: Permission) -> Decision {
        let credentials =
            caller.split_once(':').and_then(|(name, word)| Credentials::new(name, word));
        self.users.check(credentials.as_ref(), permission)
    }

    fn allows(&self, caller: &str, permission: Permission) -> bool {
        self.ask(caller, permission) == Decision::Allow
    }
}

#[test]
fn without_a_file_everything_is_allowed() {
    let users = Users::unrestricted();
    assert!(!users.is_restricted());
    for permission in Permission::EVERY {
        assert_eq!(users.check(None, permission), Decision::Allow);
        let anybody = Credentials::new("anybody", "anything");
        assert_eq!(users.check_at_once(anybody.as_ref(), permission), Some(Decision::Allow));
    }
}

#[test]
fn each_caller_may_do_what_the_file_says() {
    let fixture = open(
        r#"[
        {"username": "root", "password": "r", "perms": ["all"]},
        {"username": "reader", "password": "q", "perms": ["query", "status"]},
        {"username": "nothing", "password": "n"},
        {"username": "*", "perms": ["ready"]}
    ]"#,
    )
    .unwrap();
    assert!(fixture.users.is_restricted());
    let rows: [(&str, &[Permission]); 9] = [
        ("", &[Permission::Ready]),
        (":", &[Permission::Ready]),
        ("root:r", &Permission::EVERY),
        ("root:wrong", &[Permission::Ready]),
        ("reader:q", &[Permission::Query, Permission::Status, Permission::Ready]),
        ("reader:r", &[Permission::Ready]),
        ("nothing:n", &[Permission::Ready]),
        ("stranger:q", &[Permission::Ready]),
        ("*:", &[Permission::Ready]),
    ];
    for (caller, allowed) in rows {
        for permission in Permission::EVERY {
            let expected =
                if allowed.contains(&permission) { Decision::Allow } else { Decision::Deny };
            assert_eq!(fixture.ask(caller, permission), expected, "{caller:?} {permission:?}");
        }
    }
}

#[test]
fn what_everybody_may_do_needs_no_right_password() {
    let fixture = open(
        r#"[{"username": "a", "password": "p", "perms": ["query"]},
            {"username": "*", "perms": ["all"]}]"#,
    )
    .unwrap();
    for caller in ["", "a:wrong", "stranger:x"] {
        assert!(fixture.allows(caller, Permission::Execute), "{caller:?}");
    }
}

#[test]
fn missing_keys_are_empty_and_never_inherited() {
    let fixture = open(
        r#"[{"username": "a", "password": "p", "perms": ["all"]},
            {"username": "b", "password": "q"},
            {"username": "c", "perms": ["query"]},
            {"password": "p", "perms": ["all"]},
            {"username": "d", "password": null, "perms": null}]"#,
    )
    .unwrap();
    assert!(fixture.allows("a:p", Permission::Query));
    assert!(!fixture.allows("b:q", Permission::Query), "no permissions of its own");
    assert!(!fixture.allows("c:p", Permission::Query), "not the password of the one before");
    assert!(fixture.allows("c:", Permission::Query), "its own password is empty");
    assert!(!fixture.allows("", Permission::Query));
    assert!(!fixture.allows(":p", Permission::Query), "a user without a name is nobody");
    assert!(!fixture.allows("d:", Permission::Query));
}

#[test]
fn of_two_users_of_one_name_the_last_counts() {
    let fixture = open(
        r#"[{"username": "a", "password": "old", "perms": ["all"]},
            {"username": "*", "perms": ["all"]},
            {"username": "*", "perms": ["ready"]},
            {"username": "a", "password": "new", "perms": ["query"]}]"#,
    )
    .unwrap();
    assert!(!fixture.allows("a:old", Permission::Query));
    assert!(fixture.allows("a:new", Permission::Query));
    assert!(!fixture.allows("a:new", Permission::Execute));
}

#[test]
fn unknown_permissions_and_keys_have_no_effect() {
    let fixture = open(
        r#"[{"USERNAME": "a", "Password": "p", "perms": ["superuser", "ALL", "query"], "note": 1}]"#,
    )
    .unwrap();
    assert!(fixture.allows("a:p", Permission::Query));
    assert!(!fixture.allows("a:p", Permission::Execute));
}

#[test]
fn an_empty_array_lets_nobody_do_anything() {
    let fixture = open("[]").unwrap();
    assert!(Permission::EVERY.iter().all(|permission| !fixture.allows("", *permission)));
}

#[test]
fn files_that_are_none_are_errors_that_name_them() {
    for json in [
        "",
        "{}",
        "null",
        "[",
        "[]x",
        "[1]",
        r#"[{"username": 1}]"#,
        r#"[{"perms": "all"}]"#,
        r#"[{"perms": [1]}]"#,
        r#"[{"username": "a", "password": "$argon2id$nonsense"}]"#,
    ] {
        let error = open(json).err().unwrap_or_else(|| panic!("{json:?} was accepted"));
        assert!(error.to_string().contains("users.json"), "{json:?}: {error}");
    }
    let missing = Users::open("/nonexistent/users.json").err().unwrap().to_string();
    assert!(missing.starts_with("open /nonexistent/users.json: "), "{missing}");
}

#[test]
fn a_hashed_password_works_and_the_hash_itself_does_not() {
    let json =
        format!(r#"[{{"username": "a", "password": "{HASH_OF_SESAME}", "perms": ["query"]}}]"#);
    let fixture = open(&json).unwrap();
    let right = Credentials::new("a", "sesame");
    let at_once = |credentials: &Option<Credentials>| {
        fixture.users.check_at_once(credentials.as_ref(), Permission::Query)
    };
    assert_eq!(at_once(&right), None, "the first time takes a hash");
    assert!(!fixture.allows(&format!("a:{HASH_OF_SESAME}"), Permission::Query));
    assert!(!fixture.allows("a:", Permission::Query));
    assert!(fixture.allows("a:sesame", Permission::Query));
    assert_eq!(at_once(&right), Some(Decision::Allow));
    assert!(!fixture.allows("a:sesame", Permission::Execute), "the permission is missing");
}

#[test]
fn a_node_finds_its_own_password_unless_it_is_a_hash() {
    let fixture = open(&format!(
        r#"[{{"username": "a", "password": "old"}}, {{"username": "b", "password": "{HASH_OF_SESAME}"}},
            {{"username": "a", "password": "new"}}]"#
    ))
    .unwrap();
    let found = |name: &str| match fixture.users.stored_password(name).unwrap() {
        StoredPassword::Plain(credentials) => credentials.password().to_owned(),
        StoredPassword::Hashed => "hashed".to_owned(),
        StoredPassword::NoUser => "nobody".to_owned(),
    };
    assert_eq!([found("a"), found("b"), found("c")], ["new", "hashed", "nobody"]);
    fs::write(&fixture.path, "nonsense").unwrap();
    assert!(fixture.users.stored_password("a").is_err());
    let without = Users::unrestricted().stored_password("a").unwrap();
    assert!(matches!(without, StoredPassword::NoUser));
}

#[test]
fn a_refusal_takes_a_hash_whether_or_not_there_is_such_a_user() {
    let json = format!(
        r#"[{{"username": "hashed", "password": "{HASH_OF_SESAME}", "perms": ["query"]}},
            {{"username": "plain", "password": "p", "perms": ["query"]}}]"#
    );
    let fixture = open(&json).unwrap();
    let at_once = |name: &str, word: &str| {
        let credentials = Credentials::new(name, word);
        fixture.users.check_at_once(credentials.as_ref(), Permission::Query)
    };
    assert!(fixture.allows("hashed:sesame", Permission::Query));
    // Neither a wrong word nor one that another user has proved makes a difference.
    for (name, word) in [
        ("hashed", "x"),
        ("plain", "x"),
        ("plain", "sesame"),
        ("nobody", "x"),
        ("nobody", "sesame"),
    ] {
        assert_eq!(at_once(name, word), None, "{name}:{word} takes a hash");
        assert_eq!(fixture.ask(&format!("{name}:{word}"), Permission::Query), Decision::Deny);
        assert_eq!(at_once(name, word), None, "{name}:{word} takes a hash each time");
    }
    assert_eq!(at_once("plain", "p"), Some(Decision::Allow), "who is right need not wait");
    fs::write(&fixture.path, r#"[{"username": "plain", "password": "p", "perms": ["query"]}]"#)
        .unwrap();
    assert_eq!(
        at_once("nobody", "x"),
        Some(Decision::Deny),
        "where nothing is hashed nobody waits"
    );
}

#[test]
fn a_changed_file_counts_from_the_next_check_on() {
    let fixture = open(r#"[{"username": "a", "password": "p", "perms": ["query"]}]"#).unwrap();
    assert!(fixture.allows("a:p", Permission::Query));
    fs::write(&fixture.path, r#"[{"username": "a", "password": "changed", "perms": ["query"]}]"#)
        .unwrap();
    assert!(!fixture.allows("a:p", Permission::Query));
    assert!(fixture.allows("a:changed", Permission::Query));
}

#[test]
fn a_broken_or_missing_new_file_leaves_the_old_users() {
    let fixture = open(r#"[{"username": "a", "password": "p", "perms": ["query"]}]"#).unwrap();
    fs::write(&fixture.path, r#"[{"username": "a","#).unwrap();
    assert!(fixture.allows("a:p", Permission::Query));
    assert!(!fixture.allows("", Permission::Query));
    fs::remove_file(&fixture.path).unwrap();
    assert!(fixture.allows("a:p", Permission::Query));
    fs::write(&fixture.path, "[]").unwrap();
    assert!(!fixture.allows("a:p", Permission::Query), "a good file counts again");
}
