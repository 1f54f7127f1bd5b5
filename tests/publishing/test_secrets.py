"""Secrets and local paths in what would be published: many formats in every kind of file, and what looks like one and is none.

Secrets are made when the tests run, of random marks: none stands in this file.
"""

import base64
import json
import random
import string
import struct
import subprocess
import sys
import zlib

import pytest
import torch
from safetensors.torch import save_file

from sparse_circuits.publishing import secrets
from sparse_circuits.publishing.local_paths import find_path, is_path
from sparse_circuits.publishing.publish import _refuse_private
from tiny import ROOT

MARKS = random.Random(7)
MIXED, LOWER, HEX, UPPER, DIGITS = string.ascii_letters + string.digits, string.ascii_lowercase + string.digits, "0123456789abcdef", string.ascii_uppercase + string.digits, string.digits  # fmt: skip


def some(count, of=MIXED):
    """Random marks of a kind, with a digit."""
    return "".join(MARKS.choices(of, k=count - 1)) + MARKS.choice([mark for mark in of if mark.isdigit()])


def token(*parts, of=MIXED):
    """Text and numbers of random marks, joined."""
    return "".join(part if isinstance(part, str) else some(part, of) for part in parts)


def encoded(text):
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


JWT = ".".join((encoded('{"alg": "HS256", "typ": "JWT"}'), encoded('{"sub": "someone"}'), some(43)))
PEM = "-----BEGIN {}PRIVATE" + " KEY-----"
SECRETS = {
    "Hugging Face": token("hf", "_", 34), "Hugging Face organisation": token("api", "_org_", 34),
    "GitHub classic": token("gh", "p_", 36), "GitHub OAuth": token("gh", "o_", 36), "GitHub app": token("gh", "s_", 36), "GitHub fine-grained": token("github", "_pat_", 22, "_", 59),
    "GitLab": token("glp", "at-", 20), "GitLab runner": token("glr", "t-", 20), "GitLab pipeline": token("glp", "tt-", 40),
    "AWS key id": token("AK", "IA", 16, of=UPPER), "AWS temporary id": token("AS", "IA", 16, of=UPPER),
    "AWS secret by name": "AWS_SECRET_ACCESS_KEY=" + some(40, MIXED + "/+"), "AWS secret, quoted": f'aws_secret_access_key = "{some(40)}"', "AWS session": "aws_session_token=" + some(200),
    "AWS signed address": "https://b.s3.amazonaws.com/x?X-Amz-Signature=" + some(64, HEX),
    "Google API": token("AI", "za", 35), "Google OAuth": token("ya", "29.", 60), "Google client": token("GOC", "SPX-", 28),
    "Azure storage": "AccountKey=" + some(86, MIXED + "+/") + "==", "Azure SAS": "https://a.blob.core.windows.net/c?sv=2026&sig=" + some(44), "Azure client": some(3) + "8Q~" + some(34),
    "OpenAI": token("sk", "-", 48), "OpenAI project": token("sk", "-proj-", 60), "OpenAI service": token("sk", "-svcacct-", 60), "Anthropic": token("sk", "-ant-api03-", 95), "OpenRouter": token("sk", "-or-v1-", 64, of=HEX),
    "Groq": token("gs", "k_", 52), "Replicate": token("r", "8_", 37), "Nvidia": token("nv", "api-", 64), "Perplexity": token("pp", "lx-", 48), "Pinecone": token("pc", "sk_", 60), "LangSmith": token("ls", "v2_pt_", 32, "_", 10, of=HEX),
    "W&B by name": "WANDB_API_KEY=" + some(40, HEX), "W&B on the command line": "wandb login " + some(40, HEX), "W&B in netrc": f"machine api.wandb.ai login user password {some(40, HEX)}",
    "Kaggle": json.dumps({"username": "someone", "key": some(32, HEX)}), "Databricks": token("da", "pi", 32, of=HEX),
    "PyPI": token("py", "pi-AgEIcHlwaS5vcmc", 80), "npm": token("np", "m_", 36), "npmrc": "//registry.example.com/:_authToken=" + some(36), "RubyGems": token("rubygems", "_", 48, of=HEX), "crates.io": token("ci", "o", 32),
    "package index in an address": f"https://someone:{some(20)}@pypi.example.com/simple", "Docker": token("dckr", "_pat_", 27),
    "Slack bot": token("xo", "xb-", 12, "-", 12, "-", of=DIGITS) + some(24), "Slack app": token("xa", "pp-1-A", 10, "-", 13, "-", 64, of=HEX), "Slack hook": "https://hooks.slack.com/services/" + f"T{some(9, UPPER)}/B{some(9, UPPER)}/{some(24)}",
    "Discord hook": f"https://discord.com/api/webhooks/{some(18, DIGITS)}/{some(68)}", "Telegram": some(10, DIGITS) + ":" + some(35), "Stripe": token("sk", "_live_", 24), "Stripe test": token("rk", "_test_", 24), "Stripe hook": token("wh", "sec_", 32),
    "Twilio": token("S", "K", 32, of=HEX), "SendGrid": token("S", "G.", 22, ".", 43), "Mailgun": token("ke", "y-", 32, of=HEX), "Mailchimp": some(32, HEX) + "-us12", "Square": token("sq0", "csp-", 43),
    "DigitalOcean": token("do", "p_v1_", 64, of=HEX), "Heroku": token("HR", "KU-", 36, of=HEX), "Vault": token("hv", "s.", 24), "Terraform": some(14) + ".atlas" + "v1." + some(60), "Shopify": token("shp", "at_", 32, of=HEX),
    "Linear": token("lin", "_api_", 40), "Notion": token("nt", "n_", 46), "Postman": token("PM", "AK-", 24, "-", 34, of=HEX), "Grafana": token("gl", "sa_", 32, "_", 8, of=HEX), "Sentry": token("snt", "rys_", 60), "Atlassian": token("ATA", "TT3", 180),
    "Tailscale": token("ts", "key-auth-", 12, "-", 32), "New Relic": token("NR", "AK-", 27, of=UPPER), "Doppler": token("dp", ".pt.", 43), "Airtable": token("pa", "t", 14, ".", 64, of=HEX), "Supabase": token("sb", "p_", 40, of=HEX),
    "Alibaba": token("LT", "AI", 20), "Tencent": token("AK", "ID", 32), "age": "AGE-SECRET" + "-KEY-1" + some(58, UPPER),
    "JWT": JWT, "Authorization: Bearer": "Authorization: Bearer " + some(30), "Authorization: Basic": "Authorization: Basic " + encoded("someone:" + some(12)), "a header in code": f'headers = {{"Authorization": "Bearer {some(30)}"}}',
    "another header": "X-Api-Key: " + some(32, HEX), "PRIVATE-TOKEN": "PRIVATE-TOKEN: " + some(20), "cookie": "Set-Cookie: session=" + some(40),
    "netrc": f"machine example.com login someone password {some(12)}", "netrc over lines": f"machine example.com\n  login someone\n  password {some(12)}", "curl": f"curl -u someone:{some(12)} https://example.com",
    "an option": f"--password {some(12)}", "an option with =": f"--api-key={some(24)}",
    "address of a database": f"postgresql://someone:{some(12)}@db.example.com:5432/x", "address without user": f"redis://:{some(12)}@cache.example.com:6379", "address with a token": f"https://{some(40)}@git.example.com/x.git",
    "mongodb": f"mongodb+srv://someone:{some(12)}@c.example.net", "connection string": f"Server=db;Database=x;User Id=someone;Password={some(12)};",
    "RSA key": PEM.format("RSA "), "key": PEM.format(""), "OpenSSH key": PEM.format("OPENSSH "), "EC key": PEM.format("EC "), "encrypted key": PEM.format("ENCRYPTED "), "PGP key": "-----BEGIN PGP PRIVATE" + " KEY BLOCK-----", "PuTTY": "PuTTY-User-Key" + "-File-3: ssh-ed25519",
    "password": f'password = "{some(10)}"', "password without quotes": f"password: {some(10)}", "api_key": f"api_key: {some(24)}", "apiKey": f'"apiKey": "{some(24)}"', "client secret": f"CLIENT_SECRET='{some(24)}'", "token by name": f"ACCESS_TOKEN={some(32)}",
    "export": f"export OPENAI_API_KEY={some(32)}", "passphrase": f'passphrase: "{some(10)}"', "DB_PASS": f"DB_PASSWORD={some(10)}", "password hash": "$2" + "b$12$" + some(53), "Apache password": "someone:$apr" + "1$" + some(8) + "$" + some(22),
    "address with a password": f"jdbc:mysql://h/x?user=someone&password={some(8)}", "address with a token in it": f"https://example.com/x?access_token={some(40, HEX)}", "session": f"sessionid={some(32, LOWER)}", "sshpass": f"sshpass -p '{some(10)}' ssh host",
    "docker login": f"docker login -u someone -p {some(12)}", "pass": f'smtp_pass = "{some(10)}"', "Kennwort": f'kennwort: "{some(10)}"', "COMET": f"COMET_API_KEY={some(25)}", "KAGGLE_KEY": f"KAGGLE_KEY={some(32, HEX)}", "Pulumi": token("pu", "l-", 40, of=HEX),
    "a format that nobody knows": "Qx7vT2bLm9Zr4Kd8Wn3Hs6Pf1Jy5Gc0Ua"[::-1] + some(4), "an unknown prefix": "newco_" + "b7Xq2Lr9Zt4Kd8Wn3Hs6Pf1Jy5Gc0U"[::-1] + some(4),
}  # fmt: skip

PATHS = [
    "/home/alice/models", "/home/ubuntu/x", "/Users/bob/Library/x", "/root/work/x", "/tmp/run-3/model", "/private/tmp/x", "/var/folders/zz/abc", "/private/var/folders/ab/cd", "/var/tmp/x", "/mnt/nas/corpus", "/mnt/c/Users/bob",
    "/media/alice/disk", "/run/media/alice/disk", "/Volumes/Backup/x", "/data/code", "/data1/alice/x", "/datasets/private/x", "/scratch/alice/x", "/scratch3/project/x", "/workspace/model", "/workspaces/repo/x", "/content/drive/MyDrive/x",
    "/kaggle/input/x", "/kaggle/working/out", "/dbfs/FileStore/x", "/gpfs/fs1/home/x", "/lustre/project/x", "/nfs/shared/x", "/afs/cs/x", "/fsx/alice/x", "/efs/x/y", "/srv/models/x", "/opt/ml/input/data", "/export/home/alice", "/net/server/x",
    "/cluster/work/x", "/teamspace/studios/this_studio/x", "/notebooks/model", "/storage/alice", "/project/lab/x", "/work/lab/x", "/app/models", "/u/alice/x", "/gscratch/lab/x", "/nobackup/alice", "/glade/u/home", "/p/home/jusers/x", "/cygdrive/d/x",
    "/dev/shm/model", "/sdcard/Download/x", "/builds/group/repo", "/github/workspace/x", "/__w/repo/repo", "/Workspace/Users/x", "/lakehouse/default/x", "/usr/local/google/home/alice/x", "/home/josé/x",
    "~/models/x", "~/private.txt", "~alice/models/x/y", "file:///data/x", "file:///home/alice/x", "file://server/share/x", "file:/mnt/x", "smb://server/share", "nfs://server/export/x", "sftp://server/x", "dbfs:/FileStore/x", "vscode-remote://ssh/x",
    r"D:\models\x", r"C:\Users\bob\x", r"d:\data", "C:/Users/bob/x", "E:/models/x", r"\\server\share", r"\\server\share\x", r"\\nas.example\models$\x", r"\\?\D:\models\x", r"\\wsl$\Ubuntu\home", "server:/export/x", "alice@server:/data/x", "alice@server:~/data/x", "/bigdata/x", "/nas01/x", "/mnt_data/x", "/mnt//x", "ssh://server/home/x", "//wsl.localhost/Ubuntu/home", "%2Fhome%2Falice%2Fx", r"\/mnt\/nas\/x", "/usr/home/alice/x", "FILE:///C:/x",
]  # fmt: skip
VALUES = [*PATHS, "./runs/x", "../client/src", "..\\client\\src", "$HOME/x", "${SCRATCH}/x", "%USERPROFILE%\\x", "$env:TEMP\\x", "/data", "/scratch", "/workspace", "D:\\", "//server/share/x", "/usr/share/x/y", "~/.cache/x"]  # fmt: skip

FINE = [
    "894fa53e833d206c9542a0e013c73b26ae478c0d46171ae11a09d909f603f87c", "revision: dde08241624e15cab22ed5c96dcd03bdfbb00000", "sha256:d63b4c1068d9f3cd4a427b31aa9c12a634cbcf27b2031d80e010cde53f6a9d07",
    "tokenizer_sha256: d63b4c1068d9f3cd4a427b31aa9c12a634cbcf27b2031d80e010cde53f6a9d07", "integrity sha384-oqVuAfXRKap7fdgcCY5uykM6+R9GqQ8KuxOk2mVnTXoDHbLq1Zs1Hl6qfX2mCwYB", "id: 123e4567-e89b-42d3-a456-426614174000",
    "user/name", "bigcode/the-stack-v2-train-smol-ids", "GoodBaiBai88/M3D-LaMed-Phi-3-4B", "TheBloke/Llama-2-7B-32K-Instruct-GPTQ-4bit-128g", "class Qwen3OmniMoeCode2WavAttention(nn.Module):", "Wav2Vec2ConformerForPreTraining",
    'AutoModelForCausalLM.from_pretrained("path/to/this/folder", trust_remote_code=True)', "https://huggingface.co/user/name/resolve/main/model.safetensors", "https://arxiv.org/abs/2511.13653", "git@github.com:user/repository.git",
    "https://docs.google.com/document/d/1Ab2Cd3Ef4Gh5Ij6Kl7Mn8Op9Qr0St1Uv2Wx3Yz4/edit", "ssh://git@github.com/user/repository", "http://127.0.0.1:8000/run", "alice@example.com", "https://user@example.com/x", "@article{gao2025weightsparse,",
    "bos_token: <|endoftext|>", 'pad_token = "<|reserved_special_token_250|>"', "max_new_tokens: 20480000", "tokens per second: 1,234,567", "token_type_ids", "tokenizer_class: PreTrainedTokenizerFast", "eos_token_id: 50256", "secret-free", "keyword: pass",
    "export HF_TOKEN=$TOKEN", "Authorization: Bearer $HF_TOKEN", "Authorization: Bearer <your token>", "Authorization: Bearer {token}", "authorization = authorization.split()", "Authorization: Bearer authentication", "token = os.environ['HF_TOKEN']", "password: <password>", 'api_key="YOUR_API_KEY"', "api_key: null", "hf_...", "hf_xxx", "sk-...", "use_auth_token: true",
    "password = getpass.getpass()", "self.embed_tokens = M2M100ScaledWordEmbedding(x)", "[![codecov](https://codecov.io/gh/x/x/graph/badge.svg?token=E6F4YSY9ZQ)]", "https://example.com/x?token=<your token>", "pass: 98.5 %", "tests pass: 12345678", "The password is not checked.", "a secret: the circuit has 44 nodes", "sk-learn-compatible-estimators-and-more", "task-single-double-quote-and-brackets-too",
    "and/or", "1/2/3", "input/output/error", "24/7", "a / b / c", "attn/mlp", "#!/usr/bin/env python", "/usr/bin/python3 -m pip", "/dev/null", "/etc/hosts", "/proc/meminfo", "/path/to/model", "/your/folder/x", "`POST /v1/chat/completions`", "GET /api/models/x", "/home/<you>/models",
    "~/.cache/huggingface", "runs/tiny", ".venv/bin/csp publish .", "about ~3/4 of them", "~300 tokens/s", "</s>", "<b>x</b>/<i>y</i>", "a:b", "C: the third", "x:/", "file:", "s3://bucket/x", "hf://datasets/user/name", "{root}/x/y", "\\alpha + \\beta", "\\\\n\\\\t", "\\d+\\w+", "KL 0.098 nats (1.963)", "torch 2.13.0+cpu",
]  # fmt: skip
FINE_VALUES = ["user/name", "path/to/this/folder", "runs/tiny", "idioms:300", "hf:user/name", "stdlib", ".", "/", "</s>", "<|endoftext|>", "a/b", "configuration_csp.CSPConfig", "bigcode/the-stack", "https://example.com/x", "1.0", "/x", "\n", "//", "\\", "~"]  # fmt: skip


def png(text, compressed):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    body = b"zTXtComment\0\0" + zlib.compress(text.encode()) if compressed else b"tEXtComment\0" + text.encode()
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return head + chunk(body[:4], body[4:]) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def page(text):
    data = json.dumps({"label": text}).replace("<", "\\u003c")
    return f'<title>x</title><script type="application/json" id="data">{data}</script><script>"use strict";</script>'


def header(path, text):
    save_file({"x": torch.zeros(1)}, path, {"note": text})


def escaped(text):
    """JSON in which every mark is an escape: a search of the file's text would see nothing."""
    return '{"note": "' + "".join(f"\\u{ord(mark):04x}" for mark in text) + '"}'


# Kind of file -> how a text gets into it.
FILES = {
    "README.md": lambda path, text: path.write_text(f"# A model\n\nWords.\n\n{text}\n", encoding="utf-8"),
    "LICENSE": lambda path, text: path.write_text(f"Words\n{text}\n", encoding="utf-8"),
    "LICENSE.txt": lambda path, text: path.write_text(f"Words\n{text}\n", encoding="utf-16"),
    "config.json": lambda path, text: path.write_text(json.dumps({"provenance": {"from": [text]}}, indent=1)),
    "report.json": lambda path, text: path.write_text(escaped(text)),
    "generation_config.json": lambda path, text: path.write_text(json.dumps({text: 1})),
    "circuits/x/circuit.json": lambda path, text: path.write_text('{"labels": ' + json.dumps({"a": text})[:-1] + ', "a": "twice"}}'),
    "recipe.yaml": lambda path, text: path.write_text(f"model: tiny\nnote:\n- {json.dumps(text)}\n"),
    "dense/recipe.yaml": lambda path, text: path.write_text("model: tiny\n" + "".join(f"# {line}\n" for line in text.splitlines())),
    "sparse_weights.safetensors": header,
    "bridges.safetensors": lambda path, text: header(path, json.dumps({"inner": [text]})),
    "tokenizer.json": lambda path, text: path.write_text(json.dumps({"added_tokens": [{"content": text}], "model": {"vocab": {}}})),
    "tokenizer_config.json": lambda path, text: path.write_text(json.dumps({"chat_template": f"{{{{ x }}}} {text}"})),
    "special_tokens_map.json": lambda path, text: path.write_text(json.dumps({"extra": text})),
    "added_tokens.json": lambda path, text: path.write_text(json.dumps({text: 5})),
    "curves.png": lambda path, text: path.write_bytes(png(text, compressed=False)),
    "dense/curves.png": lambda path, text: path.write_bytes(png(text, compressed=True)),
    "sparse/curves.png": lambda path, text: path.write_bytes(png("", compressed=False) + text.encode()),
}  # fmt: skip
ONLY_SECRETS = {
    "circuits/x/page.html": lambda path, text: path.write_text(page(text)),
    "modeling_csp.py": lambda path, text: path.write_text(f'"""Code."""\n\nx = 1  # {text}\n' if "\n" not in text else f"{text}\n"),
    "dense/tokenizer.json": lambda path, text: path.write_text(json.dumps({"model": {"vocab": {text: 1}, "merges": []}})),
}  # fmt: skip
# Values of names, which count where a name can be given one: not in a list of tokens, and in code only in quotes.
BY_NAME = {"pass", "Kennwort", "COMET", "KAGGLE_KEY", "password without quotes", "api_key", "token by name", "export", "W&B by name", "AWS secret by name", "AWS session", "DB_PASS", "password", "apiKey", "client secret", "passphrase", "AWS secret, quoted", "a format that nobody knows", "an unknown prefix"}  # fmt: skip


def refused(tmp_path, name, write, text, own=frozenset()):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    write(tmp_path / name, text)
    with pytest.raises(ValueError, match="take it out and publish again") as error:
        _refuse_private(tmp_path, set(own))
    assert str(error.value).startswith(f"{name} has ")
    assert text not in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("what", SECRETS)
def test_secrets_are_found_in_every_kind_of_file(what, tmp_path):
    for i, (name, write) in enumerate((FILES | ONLY_SECRETS).items()):
        if name in ONLY_SECRETS and what in BY_NAME:
            continue
        said = refused(tmp_path / str(i), name, write, SECRETS[what])
        assert "what looks like a secret token in line " in said


@pytest.mark.parametrize("path", PATHS)
def test_local_paths_are_found_in_every_kind_of_file(path, tmp_path):
    for i, (name, write) in enumerate(FILES.items()):
        for j, text in enumerate((path, f"trained on {path} and more", f"from={path}", f"({path})", f'"{path}"')):
            assert "a path of this machine" in refused(tmp_path / f"{i}-{j}", name, write, text)


@pytest.mark.parametrize("value", VALUES)
def test_whole_values_that_are_paths_are_found(value, tmp_path):
    for i, name in enumerate(("config.json", "report.json", "recipe.yaml", "sparse_weights.safetensors", "added_tokens.json")):
        assert "a path of this machine" in refused(tmp_path / str(i), name, FILES[name], value)


def test_code_may_not_tell_of_the_machine_either(tmp_path):
    write = ONLY_SECRETS["modeling_csp.py"]
    for i, path in enumerate(PATHS):
        if path not in ("/tmp/run-3/model", r"d:\data"):  # in code "if d:\n" is no drive, and /tmp is everybody's
            refused(tmp_path / str(i), "modeling_csp.py", write, path)
    (tmp_path / "fine").mkdir()
    write(tmp_path / "fine" / "modeling_csp.py", 'Path("/tmp/x"), "/tmp/y", "if x:\\n", "class A:\\n\\tdef f", r"\\d:\\s"')
    _refuse_private(tmp_path / "fine", set())


@pytest.mark.parametrize("text", FINE)
def test_what_is_neither_may_go(text, tmp_path):
    for i, (name, write) in enumerate((FILES | ONLY_SECRETS).items()):
        if (is_path(text) or text.startswith(("/etc", "/proc", "/usr", "/dev"))) and name.endswith(
            (".json", ".yaml", ".safetensors")
        ):
            continue  # as a whole value such a path is refused, above
        folder = tmp_path / str(i)
        (folder / name).parent.mkdir(parents=True)
        write(folder / name, text)
        _refuse_private(folder, set())


@pytest.mark.parametrize("value", FINE_VALUES)
def test_values_that_are_no_paths_may_go(value, tmp_path):
    assert not is_path(value)
    for i, name in enumerate(("config.json", "recipe.yaml", "sparse_weights.safetensors", "special_tokens_map.json")):
        (tmp_path / str(i)).mkdir()
        FILES[name](tmp_path / str(i) / name, value)
        _refuse_private(tmp_path / str(i), set())


def test_the_repositorys_own_files_may_go():
    names = ["README.md", "LICENSE", "tokenizer.json", "config.json", "tokenizer_config.json", "sparse_weights.safetensors"]
    files = [ROOT / name for name in names] + [*ROOT.glob("*_csp.py"), *ROOT.glob("circuits/*/*.json"), *ROOT.glob("*/*.yaml")]
    assert len(files) > 15
    for path in files:
        assert secrets.find_in_file(path, set()) is None, path


def test_vocabularies_raise_no_alarms_but_for_secrets(tmp_path):
    words = [
        "/home/alice",
        "~/x",
        "C:\\Users\\bob",
        "password",
        "Password: ",
        "Bearer ",
        "://",
        "@",
        "BEGIN",
        "login",
        "../x/y",
        "0" * 40,
        "=" * 60,
        "AKIA",
        "hf_",
        "file:///x",
    ]
    vocabulary = {word: i for i, word in enumerate(words)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{word[:1]} {word[1:]}" for word in words))
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": vocabulary, "merges": [["/home", "/alice"], "~/ x"]}})
    )
    _refuse_private(tmp_path, set())
    secret = SECRETS["Hugging Face"]
    for name, write in {
        "vocab.json": lambda path, text: path.write_text(json.dumps({text: 1})),
        "merges.txt": lambda path, text: path.write_text(f"#version: 0.2\na {text}\n"),
    }.items():
        refused(tmp_path / "secret" / name[0], name, write, secret)


def test_the_line_is_that_of_the_value(tmp_path):
    secret, path = SECRETS["GitHub classic"], "/mnt/nas/x"
    for name, text, line in [
        ("README.md", f"a\n\nb {secret}\n", 3), ("recipe.yaml", f"a: 1\nb: |\n  words\n  {secret}\n", 4), ("recipe.yaml", f"a: 1\nb:\n- {path}\n", 3), ("recipe.yaml", f"a: 1\n# {path}\n", 2),
        ("config.json", json.dumps({"a": 1, "b": {"c": secret}}, indent=1), 4), ("config.json", '{\n"a": 1,\n"b": "\\/mnt\\/nas\\/x"}', 3), ("config.json", json.dumps({"a": 1, "password": "correct horse"}, indent=1), 3),
    ]:  # fmt: skip
        (tmp_path / name).write_text(text)
        assert f" in line {line};" in refused(tmp_path, name, lambda path, text: None, secret)
        (tmp_path / name).unlink()


def test_names_of_secrets_count_with_their_values(tmp_path):
    """Also those that no pattern would take for a secret, where a document gives a name a value."""
    for i, (name, value) in enumerate({"password": "correct horse", "db_password": "hunter2", "client_secret": "abcdefgh", "api_key": "a1b2c3d4", "passphrase": "opensesame", "auth": "c29tZW9uZTpwYXNzd29yZDE="}.items()):  # fmt: skip
        refused(
            tmp_path / f"{i}j",
            "config.json",
            lambda path, text, name=name: path.write_text(json.dumps({"x": {name: text}})),
            value,
        )
        refused(
            tmp_path / f"{i}y", "recipe.yaml", lambda path, text, name=name: path.write_text(f"x:\n  {name}: {text}\n"), value
        )


def test_what_is_this_users_is_found_whatever_it_looks_like(tmp_path):
    own = {"a-token-of-an-odd-kind", "/odd"}
    for i, (name, write) in enumerate((FILES | ONLY_SECRETS).items()):
        assert "path or token of yours" in refused(tmp_path / str(i), name, write, "x a-token-of-an-odd-kind", own)
    assert secrets.find_in_text("https://example.com/odd and framework/odd", own) is None


def test_names_of_files_count(tmp_path):
    name = f"LICENSE.{SECRETS['Hugging Face']}"
    (tmp_path / name).write_text("x")
    with pytest.raises(ValueError, match="The name of a file") as error:
        _refuse_private(tmp_path, set())
    assert name not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", "[" * 99999),
        ("x.json", "{"),
        ("x.yaml", "a: [1"),
        ("x.yaml", "&a [*a, 1"),
        ("x.yaml", "a: 1\n---\nb: 2"),
        ("x.json", b"\xff\xfe{".decode("latin-1")),
    ],
)
def test_damaged_documents_are_named(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"^{name} is damaged: it is no (JSON|YAML); write it again, or take it out.$"):
        _refuse_private(tmp_path, set())


def test_documents_that_would_unfold_without_end_are_read(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    (tmp_path / "x.yaml").write_text("\n".join(lines))
    (tmp_path / "y.yaml").write_text("a: &a\n- 1\n- *a\n")
    _refuse_private(tmp_path, set())


def test_nothing_is_asked_over_the_network_and_no_settings_are_left():
    code = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from sparse_circuits.publishing import secrets
assert secrets.find_in_text("key xo" + "xb-123456789012-123456789012-" + "a1" * 12, set()) is not None
from detect_secrets.settings import get_settings
assert not get_settings().plugins
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_escape_before_it_hides_nothing():
    for hidden in (SECRETS["Hugging Face"], SECRETS["AWS key id"], "/home/alice/x"):
        for mark in "nrt":
            assert secrets.find_in_text(f'x = "words\\{mark}{hidden}"', set(), code=True) is not None


def test_paths_are_found_where_they_begin():
    assert find_path("words, /mnt/nas/x") == 7
    assert find_path("words") is None


def test_packed_numbers_of_programs_are_no_secrets_and_hide_none(tmp_path):
    from sparse_circuits.publishing.secrets import find_in_file

    programs = sorted(ROOT.glob("circuits/*/program.py"))
    assert len(programs) > 5
    for path in programs:
        assert find_in_file(path, set()) is None, path
    text = programs[0].read_text(encoding="utf-8")
    for hidden in ("ghp_" + "Ab3dEf6hIj9lMn2pQr5tUv8xYz1BcD4eFg7H", "kJ8sd7F2mQ9zLp4XvB6nRt1YwC3gHu5Ea0Zk"):
        (tmp_path / "program.py").write_text(text + f'HERE = unpacked(1, "{hidden}")\n', encoding="utf-8")
        assert find_in_file(tmp_path / "program.py", set()) is not None
