"""Secrets in every place and shape in which publishers leave them, for hypothesis to draw from."""

import json
from typing import Any

from hypothesis import strategies as st

OSLO_NAMES = [
    "adminpass", "admin_pass", "password", "admin_password", "auth_token", "new_pass", "auth_password",
    "secret_uuid",
    "secret", "sys_pswd", "token", "configdrive", "chappassword", "encrypted_key", "private_key",
    "fernetkey", "sslkey",
    "passphrase", "cephclusterfsid", "octaviaheartbeatkey", "rabbitcookie", "cephmanilaclientkey",
    "pacemakerremoteauthkey", "designaterndckey", "cephadminkey", "heatauthencryptionkey", "cephclientkey",
    "keystonecredential", "barbicansimplecryptokek", "cephrgwkey", "swifthashsuffix",
    "migrationsshkey", "cephmdskey",
    "cephmonkey", "chapsecret",
]  # fmt: skip
"""What oslo.utils masks; a test compares it with the installed one's."""

OUR_NAMES = [
    "credential", "credentials", "secrets", "tokens", "api_keys", "apiKey", "db_pass", "rootPass",
    "pwd", "db_pwd",
    "passcode", "otp", "totp", "kubeconfig", "kube_config", "cookie", "Set-Cookie", "ssl_key", "X-Auth-Token",
    "X-Subject-Token", "Authorization", "_context_auth_token", "token_id", "client_secret",
    "aws_secret_access_key",
    "user_data", "psk", "hmac_key", "password2", "ADMIN_PASSWORD", "secretValue", "secret_payload",
    "SecretString", "provider_auth", "snmp_community", "ipmi_hex_kg_key", "client-key-data", "ca_key",
    "SAMLResponse", "secret_id", "secret_key_base",
]  # fmt: skip

names = st.sampled_from(OSLO_NAMES + OUR_NAMES)
# Without P, as PWD, PSK and OTP are names.
secrets = st.text("ABCDEFGHJKLMNQRSTUVWXYZ23456789", min_size=10, max_size=14).map("Zq".__add__)


def _by_key(name: str, secret: str) -> list[Any]:
    return [
        {name: secret},
        {name: [secret]},
        {name: {"a": {"b": secret}}},
        {"a": [{"b": {name: secret}}]},
        {"credential": {"user": f"https://u:{secret}@h/"}},
        {"credential": {"type": "x", "groups": [f"{name}={secret}"]}},
    ]


def _by_label(name: str, secret: str) -> list[Any]:
    return [
        {"name": name, "value": secret},
        {"key": name, "value": secret},
        {"value": secret, "name": name, "kind": "x"},
        {"ParameterKey": name, "ParameterValue": secret},
        {"op": "replace", "path": f"/{name}", "value": secret},
        [{"op": "add", "path": f"/driver_info/{name}", "value": secret}],
        {"op": "add", "path": f"/{name}/a", "value": {"b": [secret]}},
        {"headers": [["Accept", "text/html"], [name, secret]]},
        ["mysql", f"--{name}", secret],
        ["iscsiadm", "-n", f"{name}", "-v", secret],
        {"a": ["X-Auth-Token", secret]},
        ["a", "X-Auth-Token", secret],
        [f"--{name}", [secret]],
        [f"--{name}", {"x": secret}],
    ]


def _in_json_text(name: str, secret: str) -> list[str]:
    return [
        json.dumps({name: secret}),
        json.dumps([{"a": {name: [secret]}}], indent=1),
        json.dumps({"args": json.dumps({name: secret, "b": 1})}),
        json.dumps({"a": json.dumps({"b": json.dumps({name: secret})})}),
        json.dumps({"name": name, "value": secret}),
        json.dumps([{"op": "replace", "path": f"/{name}", "value": secret}]),
        json.dumps([["Accept", "*/*"], [name, secret]]),
    ]


def _in_text(name: str, secret: str) -> list[str]:
    return [
        repr({name: secret, "b": "c"}),
        f"GET / HTTP/1.1\r\n{name}: {secret}\r\nHost: h",
        f"{name}={secret}",
        f"https://h/v1/a?b=c&{name}={secret}&d=e",
        f"command --{name} {secret} --verbose",
        *_quoted(name, secret),
        *_spoken(name, secret),
        *_in_yaml(name, secret),
        f"{name} == {secret}",
        *_assigned(name, secret),
        *_in_xml(name, secret),
        *_encoded(name, secret),
    ]


def _in_xml(name: str, secret: str) -> list[str]:
    return [
        f"<server><{name}>{secret}</{name}></server>",
        f'<server><{name} type="s">{secret}</{name}></server>',
        f"<server><n:{name}><![CDATA[<{secret}>]]></n:{name}></server>",
        f"<{name}><value>{secret}</value></{name}>",
        f"<{name}>\n  <!-- a -->\n  {secret}</{name}>",
        f"<entry><name>{name}</name>\n<value type='s'>{secret}</value></entry>",
        f"<dict><key>{name}</key><string>{secret}</string></dict>",
        f"<p>{{&quot;{name}&quot;: &quot;{secret}&quot;, &quot;a&quot;: 1}}</p>",
        f'<a b="{{&#39;{name}&#39;: u&#39;{secret}&#39;}}"/>',
        f"<p>a &amp; b, {name}&#61;{secret}</p>",
        f"<p>{name}&#x3A; {secret}</p>",
        f"{{&#34;name&#34;: &#34;{name}&#34;, &#34;value&#34;&#58; &#34;{secret}&#34;}}",
    ]


def _encoded(name: str, secret: str) -> list[str]:
    return [
        f"https://h/login?next=%2Fa%3Fb%3Dc%26{name}%3D{secret}%26d%3De",
        f"https://h/login?next=%2Fa%253F{name}%253D{secret}",
        f"https://h/login?next=https%3A%2F%2Fx%2F%3F{name}%3D{secret}",
        f"https://h/login?next=https%253A%252F%252Fx%252F%253F{name}%253D{secret}",
        f"a%3Db%3B{name}%3D{secret}",
        f"%7B%22{name}%22%3A%22{secret}%22%7D",
        f"%7B%22{name}%22%3A+%22{secret}%22%7D",
        f"{name}%3D%22{secret}%22",
        f"user%5B{name}%5D={secret}&a=b",
        f"user[{name}]={secret}&a=b",
        f"a%3Ab%0A{name}%3A%20{secret}",
        f"a=b%20--{name}%3D{secret}",
        f"https://h/login?next=https%3A%2F%2Fuser%3A{secret}%40x%2F",
    ]


def _quoted(name: str, secret: str) -> list[str]:
    return [
        f'{name}="""{secret}"""',
        f"{name}='''{secret}'''",
        f"{name} := '{secret}'",
        f"export {name}=$'{secret}'",
        f"command --{name} '{secret} {secret}' --verbose",
        f'command --{name} "{secret} {secret}" --verbose',
        f"{name}: 'it''s {secret}'",
        f'a,"{name}=""{secret}"""',
        f"{name}: Bearer '{secret}'",
        f"{name}: Digest username=\"x\", response='{secret}'\r\nHost: h",
    ]


def _assigned(name: str, secret: str) -> list[str]:
    return [
        f"{name}=Bearer {secret}",
        f"a; {name} = Basic {secret}; b",
        f"conf['{name}'] = '{secret}'",
        f"{name}\t= {secret}",
        f"name={name} value={secret}",
        f"a:\n  {name}: it's <{secret}",
        f"[a]\n{name} = it's;{secret}\n",
        f"| id | 1 |\n| {name} | {secret} |",
    ]


def _spoken(name: str, secret: str) -> list[str]:
    return [
        f"iscsiadm -o update -n {name} -v {secret}",
        f"('iscsiadm', '-n', '{name}', '-v', '{secret}')",
        f"ALTER USER a WITH {name} '{secret}' EXPIRE",
        f"the {name} '{secret}' is wrong",
        f"command --{name} -{secret} --verbose",
        f"{name}={{a}}{secret}",
        f"{name}: {{SSHA}}{secret}",
        f"{name}=[a]{secret}",
    ]


def _in_yaml(name: str, secret: str) -> list[str]:
    return [
        f"a:\n  {name}: |\n    {secret}\n  b: c\n",
        f'{name}: >-\n  it\'s "a"\n\n  {secret}\nb: c',
        f"{name}: !!str |2+  # a\r\n\r\n  a\r\n    {secret}\r\n",
        f"{name}: !!str '{secret}'",
        f"a:\n  {name}:\n    type: string\n    hidden: true\n    default: {secret}\nb: c",
        f"{name}:\n  - a\n  - {secret}\n",
        f"a:\n  {name}:\n  - a\n  - '{secret}'\n",
        f"- name: {name}\n  value: {secret}\n- name: a\n  value: b",
        f"{{name: {name}, value: {secret}}}",
        f"{name}: # note\n  {secret}\n",
        f"{name}: a\n  {secret}\nb: c",
        f"GET / HTTP/1.1\r\n{name}: Basic\r\n {secret}\r\nHost: h",
    ]


def _by_shape(secret: str) -> list[str]:
    body = "\n".join([secret, secret + "+/"])
    return [
        f"https://swift/v1/AUTH_a/c/o?temp_url_sig={secret}&temp_url_expires=1",
        f"https://s3/b/o?AWSAccessKeyId=A&Signature={secret}&Expires=1",
        f"https://s3/b/o?X-Amz-Algorithm=AWS4&X-Amz-Signature={secret}",
        f"https://s3/b/o?X-Amz-Security-Token={secret}&X-Amz-Expires=9",
        f"wss://console:6080/?token={secret}",
        f"rabbit://user:{secret}@h1:5672,user:{secret}@h2:5672/vhost",
        f"postgresql://user:{secret}@h/d",
        f'{{"url":"http:\\/\\/u:{secret}@h\\/","x',
        f"(b'x-auth-token', b'{secret}')",
        f"('a', 'X-Auth-Token', '{secret}')",
        f"amqp://user:a/{secret}@h:5672/",
        f"amqp://user:a,{secret}@h:5672/",
        f"amqp://user:{secret}@b@h:5672/",
        f"redis://:{secret}@h:6379/0",
        f"https://{secret}@github.com/a.git",
        f'{{"url":"http:\\/\\/{secret}@h\\/","x',
        f"mysql://user:12345/{secret}@host/db",
        f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\n",
        f"-----BEGIN PRIVATE KEY-----\n{body}",
        f"-----BEGIN OpenVPN Static key V1-----\n{body}\n-----END OpenVPN Static key V1-----\n",
        f"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n{body}\n---- END SSH2 ENCRYPTED PRIVATE KEY ----\n",
        f"gAAAAABm{secret * 5}==",
        f"sent eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx{secret}.{secret}{secret} to it",
        f"Authorization: Bearer {secret}",
        f"Cookie: a=b; session={secret}",
        f'Cookie: a="b"; session={secret}',
        f'Authorization: Digest username="x", response="{secret}"',
    ]


def _text_in(text: str) -> list[Any]:
    return [text, [text], {"note": text}, [{"a": [text, 1]}]]


def every_value(name: str, secret: str) -> list[Any]:
    """Return values of JSON that each give the secret away, in every shape."""
    texts = _in_json_text(name, secret) + _in_text(name, secret) + _by_shape(secret)
    return [
        *_by_key(name, secret),
        *_by_label(name, secret),
        *(held for text in texts for held in _text_in(text)),
    ]


values = st.tuples(names, secrets).flatmap(
    lambda drawn: st.tuples(st.just(drawn[1]), st.sampled_from(every_value(*drawn)))
)
"""``(secret, a value of JSON that gives it away)``"""

json_texts = st.builds(lambda name, secret: (secret, _in_json_text(name, secret)), names, secrets).flatmap(
    lambda drawn: st.tuples(st.just(drawn[0]), st.sampled_from(drawn[1]))
)


def notification(value: Any) -> dict[str, Any]:
    """Return a notification in a payload and a context of which a planted value stands."""
    return {
        "message_id": "m",
        "event_type": "compute.instance.update",
        "publisher_id": "p",
        "priority": "INFO",
        "timestamp": "2026-01-01 00:00:00",
        "_context_request": value,
        "payload": {"instance_id": "i", "metadata": value},
    }
