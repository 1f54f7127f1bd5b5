"""What must not leave this machine with a file: secrets, and paths that tell of the machine.

Formats are detect-secrets' (a kept list), and a few of ours that it does not know; only its patterns are used: nothing is verified over the network.
Besides formats three more kinds are looked for, so that a secret of a format which no list has is found, too: a value given to a name such as
`password` or `api_key`, the words that come before a secret (`Authorization: Bearer`, netrc), and long strings as random as no identifier is. Hashes in hex,
of which our files are full, are no secrets.
"""

from __future__ import annotations

import base64
import functools
import importlib
import itertools
import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .local_paths import find_path, is_path

TOKEN, PATH, OWN = "what looks like a secret token", "a path of this machine", "a path or token of yours"
VOCABULARIES = ("vocab.json", "merges.txt")  # and two entries of tokenizer.json
LONGEST_CHUNK = 1 << 24  # bytes that a compressed text of a picture may have
# Left out: entropy (alarms on hashes), public IPs (versions look like them), and the keyword plugin, whose place `_assigned` takes: it knows no tokens.
PLUGINS = (
    "artifactory.ArtifactoryDetector", "aws.AWSKeyDetector", "azure_storage_key.AzureStorageKeyDetector", "basic_auth.BasicAuthDetector",
    "cloudant.CloudantDetector", "discord.DiscordBotTokenDetector", "github_token.GitHubTokenDetector", "gitlab_token.GitLabTokenDetector",
    "ibm_cloud_iam.IbmCloudIamDetector", "ibm_cos_hmac.IbmCosHmacDetector", "jwt.JwtTokenDetector", "mailchimp.MailchimpDetector", "npm.NpmDetector",
    "openai.OpenAIDetector", "private_key.PrivateKeyDetector", "pypi_token.PypiTokenDetector", "sendgrid.SendGridDetector", "slack.SlackDetector",
    "softlayer.SoftlayerDetector", "square_oauth.SquareOAuthDetector", "stripe.StripeDetector", "telegram_token.TelegramBotTokenDetector",
    "twilio.TwilioKeyDetector",
)  # fmt: skip
_LEFT, _RANDOM = (
    r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))",
    r"(?=[\w.-]*\d)",
)  # a token begins, maybe after an escape; it has a digit, as no word of ours has there
# Formats, by who issues them. `value`: what may be a placeholder (`$TOKEN`, `<your token>`) instead.
RULES = {
    "Hugging Face": _LEFT + r"(?:hf|api_org)_[A-Za-z0-9]{20,}",
    "GitHub": _LEFT + r"(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,})",
    "GitLab": _LEFT + r"gl(?:pat|dt|ft|ffct|soat|rtr?|cbt|imt|ptt|agent|oas|wt)-[\w.-]{15,}",
    "sk- key (OpenAI, Anthropic, ...)": _LEFT + r"sk-" + _RANDOM + r"[\w-]{20,}",
    "Slack": _LEFT + r"(?:xox[a-z](?:\.xox[a-z])?|xapp)-[\w-]{10,}",
    "Google": _LEFT + r"(?:AIza[\w-]{30,}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}|1//0[\w-]{30,})",
    "Azure": r"(?i:AccountKey|SharedAccessKey|SharedAccessSignature|sharedSecret)\s*=\s*[A-Za-z0-9+/%=]{20,}|(?<![\w~.])[\w~.]{3}\dQ~[\w~.-]{30,}"
             r"|\w{70,}(?:AZDO|ACDb|JQQJ)\w{4,}|AzCa\w{5}=?|\+ASt\w{6}(?:==)?",
    "address with a key": r"(?i:[?&](?:password|passwd|pwd|secret|client_secret|api_?key))=(?P<value>[^\s&\"'<>#]{6,})|(?i:[?&](?:access_|auth_|api_|private_)?token)=(?P<value2>[^\s&\"'<>#]{16,})|[?&;](?:sig|X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token|X-Goog-Signature)=[A-Za-z0-9%+/=_-]{16,}",
    "AWS": _LEFT + r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}|ABSK[A-Za-z0-9+/=]{80,}|(?:FwoG|IQoJ)[A-Za-z0-9+/=_-]{60,}",
    "Alibaba, Tencent, Yandex": _LEFT + r"(?:LTAI[A-Za-z0-9]{12,24}|AKID[A-Za-z0-9]{32}|AQVN[\w-]{35,}|y[0-3]_[\w-]{50,})(?![A-Za-z0-9])",
    "package index": _LEFT + r"(?:pypi-" + _RANDOM + r"[\w-]{30,}|npm_[A-Za-z0-9]{30,}|rubygems_[0-9a-f]{40,}|cio[A-Za-z0-9]{32}(?!\w)|oy2[a-z0-9]{43}(?!\w)"
                     r"|dckr_(?:pat|oat)_[\w-]{20,})|(?<!\w)_(?:authToken|auth|password)\s*=\s*(?P<value>[^\s\"']{8,})",
    "Stripe, Square, PayPal": _LEFT + r"(?:[srp]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,}|sq0[a-z]{3}-[\w-]{22,}|EAAA[\w-]{60}|access_token\$production\$[a-z0-9]{10,}\S*)",
    "SendGrid, Mailgun": _LEFT + r"(?:SG\.[\w-]{16,}\.[\w-]{16,}|key-[0-9a-f]{32}(?!\w)|pul-[0-9a-f]{40}|xkeysib-[0-9a-f]{40,}\S*|(?:pubkey-)?[0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8}(?![\w-]))",
    "Twilio": _LEFT + r"(?:AC|SK)[0-9a-f]{32}(?!\w)",
    "cloud host": _LEFT + r"(?:do[opr]_v1_[0-9a-f]{40,}|dapi[0-9a-f]{32}|dop?[a-z]?s?\.v1\.[\w-]{20,}|HRKU-[\w-]{20,}|fm[12]\w?_[\w+/=-]{20,}|nfp_[A-Za-z0-9]{30,}"
                  r"|sbp_[0-9a-f]{40}|sb_secret_[\w-]{20,}|pscale_\w+_[\w.-]{30,}|LKLK[A-Za-z0-9]{20,}|ops_eyJ[\w+/=-]{20,})",
    "machine learning service": _LEFT + r"(?:r8_[A-Za-z0-9]{30,}|gsk_[A-Za-z0-9]{40,}|pplx-[A-Za-z0-9]{40,}|xai-[A-Za-z0-9]{40,}|nvapi-[\w-]{40,}|esecret_[a-z0-9]{20,}"
                                r"|pcsk_\w{40,}|lsv2_[a-z]{2}_[0-9a-f]{32}\w*|tvly-[\w-]{20,}|fw_[A-Za-z0-9]{20,}|KGAT_[0-9a-f]{20,}|wandb_v1_\w{20,}|jina_[A-Za-z0-9]{40,}|fc-[0-9a-f]{32})",
    "development service": _LEFT + r"(?:hv[sbr]\.[\w-]{20,}|[A-Za-z0-9]{14}\.atlasv1\.[\w-]{40,}|dp\.[a-z]{2,5}\.(?:\w+\.)?[A-Za-z0-9]{40,}|lin_(?:api|oauth)_[A-Za-z0-9]{30,}|ntn_[A-Za-z0-9]{40,}|secret_[A-Za-z0-9]{43}"
                           r"|figd_[\w-]{30,}|PMAK-[0-9a-f]{20,}-[0-9a-f]{30,}|NRAK-[A-Z0-9]{27}|gl(?:c|sa)_[\w+/=]{30,}|sntr(?:y[a-z])_[\w+/=-]{30,}|CCIPAT_\w{16,}|bkua_[0-9a-f]{40}|ATATT3[\w=-]{50,}|ATBB\w{24,}"
                           r"|pat[A-Za-z0-9]{14}\.[0-9a-f]{64}|tskey-[a-z]+-[\w-]{15,}|sq[pau]_[0-9a-f]{40}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|pnu_[A-Za-z0-9]{36}|EAA[A-Za-z0-9]{80,}|sl\.[\w-]{100,}|AGE-SECRET-KEY-1[0-9A-Z]{50,})",
    "web hook": r"(?i:hooks\.slack\.com/(?:services|workflows|triggers)/\S{20,}|discord(?:app)?\.com/api/webhooks/\d+/[\w-]{20,}|webhook\.office\.com/webhookb2/\S{20,}|hooks\.zapier\.com/hooks/catch/\d+/\w+)",
    "private key": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY|---- BEGIN SSH2 ENCRYPTED PRIVATE KEY|PuTTY-User-Key-File-\d",
    "JSON Web Token": _LEFT + r"eyJ[A-Za-z0-9+/_=-]{10,}\.[A-Za-z0-9+/_=-]{10,}|" + _LEFT + r"eyJ[A-Za-z0-9+/_-]{40,}",
    "password hash": r"\$(?:apr1|2[abxy]|[156y]|argon2\w+|scrypt|pbkdf2[\w-]*)\$[./\w$=,+-]{20,}",
    "Authorization header": r"(?i:authorization|x-[a-z-]*(?:token|key)|private-token|job-token)[\"'`]?[ \t]*[:=,][ \t]*[\"'`]?(?i:(?:bearer|basic|token|apikey|digest|negotiate|aws4-hmac-sha256)[ \t]+)?(?P<value>(?=[\w.~+/=:-]*\d|[\w~+/=-]{24})[^\s\"'`,;]{8,})"
                            r"|" + _LEFT + r"(?i:bearer|basic)[ \t]+" + _RANDOM + r"[A-Za-z0-9._~+/=-]{16,}",
    "cookie": r"(?i:\b(?:session(?:_?id)?|csrf_?token|xsrf-token|jsessionid|phpsessid|sid)=)(?=\S*\d)[\w%+/-]{20,}|(?i:(?<!\w)(?:set-)?cookie)[\"']?\s*:\s*[\"']?[\w.-]+=(?P<value>[^\s;\"']{12,})",
    "netrc": r"(?:\bmachine[\s#]+\S+|\bdefault)[\s#]+login[\s#]+\S+[\s#]+(?:account[\s#]+\S+[\s#]+)?password[\s#]+(?P<value>\S+)|\blogin[\s#]+\S+[\s#]+password[\s#]+\S*\d\S*",
    "command line": r"(?i:--(?:password|passwd|pass|token|api[-_]?key|secret[-\w]*|auth[-_]?token|access[-_]?key))[ =]+[\"']?(?P<value>(?=\S*\d)[^\s\"'-][^\s\"']{5,})|\b(?:curl|wget|http)\b[^\n]*\s(?:-u|--user)[ =]?[\"']?[^\s:\"'/]+:(?P<value2>[^\s\"']+)"
                    r"|\b(?:sshpass|mysql\w*|mongo\w*|(?:docker|podman|helm|az) (?:registry )?login)\b[^\n]*?\s-p ?[\"']?(?P<value3>[^\s\"'-][^\s\"']{4,})"
                    r"|(?i:wandb)[^\n]{0,40}?\b[0-9a-f]{40}\b",
    "password in an address": r"[a-z][a-z0-9+.-]*://[^\s/@\"'<>`]*:(?P<value>[^\s/@\"'<>`]+)@[\w.\[-]|(?:https?|ftps?)://(?=[\w.~-]*\d)[\w.~-]{16,}@[\w.\[-]",
    "password file": r"(?i:\"username\"\s*:\s*\"[^\"]+\"\s*,\s*\"key\"\s*:\s*\"[0-9a-f]{32}\")|:(?:5432|6432|3306):[^:\s]+:[^:\s]+:\S+",
    "connection string": r"(?i:(?:^|[;\s\"'])(?:pwd|password)\s*=\s*(?P<value>[^\s;\"']+);|;\s*(?:pwd|password)\s*=\s*(?P<value2>[^\s;\"']+))",
}  # fmt: skip
# Names whose values are secrets; a word may follow that makes no difference.
_NAME = r"(?:pass(?:word|wd|phrase|code)|pwd|secret|credential|contraseña|passwort|kennwort|mot_?de_?passe|(?P<short>(?<![a-z])(?:pass|pw))|(?:api|auth|access|account|admin|app|client|consumer|db|database|deploy|encryption|hmac|jwt|licen[cs]e|master|kaggle|openai|priv|private|security|service|session|shared|signing|ssh|storage|subscription|wandb|webhook)[_. -]?(?P<key>key)|(?-i:[A-Z][A-Z0-9]*_(?P<env>KEY)(?=[\"']?[=:]|$))|(?P<token>token|\bauth))"
_TAIL = r"(?:s|[_. -]?(?:access|base|dev|hash|id|key|live|password|plain|prod|secret|string|test|text|token|value|\d+))*"
_NAMED = re.compile(rf"(?i){_NAME}{_TAIL}$")
_ASSIGNED = re.compile(
    rf"(?i){_NAME}{_TAIL}[\"'`\]]{{0,3}}(?:[^\S\n]*:[^\S\n]*[\w.]+(?:[^\S\n]*\|[^\S\n]*\w+)?(?=[^\S\n]*=))?[^\S\n]*(?:=>|:=|={{1,3}}|:)[^\S\n]*"
    rf"(?:[rbuf]?\"(?P<double>[^\"\n]{{4,300}})\"|[rbuf]?'(?P<single>[^'\n]{{4,300}})'|(?P<bare>[^\s\"'`,;&(){{}}\[\]<>|*]{{6,300}})(?![^\s\"'`,;&(){{}}\[\]<>|*])(?!\s*[(\[]))"
)
_PLACEHOLDER = re.compile(
    r"(?i)[<{\[(].*[>}\])]|[$%{@].*|[*x.…_-]+|(?:your|my|insert|enter|replace|change|example|dummy|fake|redacted|placeholder|hidden|optional|required|none|null|nil|true|false|not[ _-]|no[ _-]|os\.|env|getenv|process\.|self\.|args\.|config\.|settings\.|str\b|bytes\b|int\b|string\b|user:|password$|passwd$|secret$|token$|key$).*|[a-z]+_[<{$.…x*]+.*"
)
_LONG = re.compile(r"(?<![\w+/=.-])[A-Za-z0-9+/_-]{28,120}={0,2}(?![\w+/=-])")
_INTEGRITY = re.compile(r"(?i)(?:sha\d{1,3}|md5|base64)[-:,=][A-Za-z0-9+/_-]*={0,2}$")


@dataclass(frozen=True)
class Finding:
    """What must not leave: kind (TOKEN, PATH or OWN), rule that found it, where: the line, and the place in the text. Never the thing itself."""

    what: str
    rule: str
    line: int

    def __str__(self) -> str:
        return f"{self.what} in line {self.line}"


@functools.cache
def _plugins() -> tuple[Any, ...]:
    names = (each.split(".") for each in PLUGINS)
    return tuple(getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)() for module, name in names)


@functools.cache
def _rules() -> dict[str, re.Pattern[str]]:
    return {name: re.compile(rule) for name, rule in RULES.items()}


def find_in_text(text: str, own: set[str], *, code: bool = False) -> Finding | None:
    """The first thing in a text of lines that must not leave; code: of a programming language, where names are given values that are no secrets."""
    found = _own(text, own) or _format(text) or _random(text) or _assigned(text, code)
    if found is None and (place := find_path(text, code=code)) is not None:
        found = (PATH, "local path", place)
    return None if found is None else Finding(found[0], found[1], text.count("\n", 0, found[2]) + 1)


# Numbers in a program of `csp prove`: compressed floats in base 85.
_LARGEST_TABLE = 1 << 26  # bytes
_PACKED = re.compile(r'(unpacked\(\d+, |column\()"([^"\n]*)"')


def _without_numbers(found: re.Match[str]) -> str:
    """A packed table without its text, if that is nothing but finite numbers; else as it stands, to be looked at."""
    try:
        whole = zlib.decompressobj()
        data = whole.decompress(base64.b85decode(found[2]), _LARGEST_TABLE)
        fine = whole.eof and not whole.unused_data and len(data) % 4 == 0
        fine = fine and bool(np.isfinite(np.frombuffer(data, "<f4")).all())
    except (ValueError, zlib.error):
        fine = False
    return f'{found[1]}""' if fine else found[0]


def find_in_file(path: Path, own: set[str]) -> Finding | None:
    """The same of a file that would be published, by its kind: of documents (JSON, YAML, headers of safetensors) every value and key counts, as it reads
    without its escapes; a value that is a path counts even if it is relative. Of a vocabulary only tokens that are secrets themselves count, of pictures their texts.

    Raises:
        ValueError: if a document is damaged. It names no file.
    """
    data, suffix = _bytes(path), path.suffix.lower()
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return find_in_text("\n".join(_png_texts(data)), own)
    text = _decoded(data)
    if path.name in VOCABULARIES:
        tokens = [name for name, _ in _json(text)] + [value for _, value in _json(text)] if suffix == ".json" else [text]
        return _finding(_own(text, own) or _format("\n".join(tokens)), text)
    if suffix == ".py":
        text = _PACKED.sub(_without_numbers, text)
    if suffix == ".html":
        return _find_in_page(text, own)
    if suffix in (".json", ".safetensors"):
        return _find_in_json(text, own, vocabulary=path.name == "tokenizer.json")
    if suffix in (".yaml", ".yml"):
        return _find_in_statements(_yaml(text), text, own) or find_in_text(text, own)  # comments
    return find_in_text(text, own, code=suffix == ".py")


def _bytes(path: Path) -> bytes:
    """Of safetensors the header, else all of it."""
    if path.suffix.lower() != ".safetensors":
        return path.read_bytes()
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return file.read(min(size, path.stat().st_size))


def _decoded(data: bytes) -> str:
    for mark, name in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig")):
        if data.startswith(mark):
            return data.decode(name, "replace")
    return data.decode("utf-8", "replace")


def _finding(found: tuple[str, str, int] | None, text: str) -> Finding | None:
    return None if found is None else Finding(found[0], found[1], text.count("\n", 0, found[2]) + 1)


# ------------------------------------------------------------------------------------------------------------ rules

Found = tuple[str, str, int]  # what, rule, place


def _own(text: str, own: set[str]) -> Found | None:
    places = [found.start() for each in own if (found := re.search(rf"(?<![\w.]){re.escape(each)}(?![\w.-])", text))]
    return (OWN, "own", min(places)) if places else None


def _format(text: str) -> Found | None:
    for name, rule in _rules().items():
        for found in rule.finditer(text):
            given = [value for value in found.groupdict().values() if value is not None]
            if not any(_PLACEHOLDER.fullmatch(value) for value in given):
                return TOKEN, name, found.start()
    for plugin in _plugins():
        if any(_telling(plugin, found) for found in plugin.analyze_string(text)):
            for line in re.finditer(r"[^\n]+", text):  # it gives what it found, not where
                if any(_telling(plugin, found) for found in plugin.analyze_string(line[0])):
                    return TOKEN, plugin.secret_type, line.start()
    return None


def _telling(plugin: Any, found: str) -> bool:
    """Whether this is no placeholder, nor a word that happens to begin like a token; words of its own the private key's plugin has."""
    if plugin.secret_type == "Private Key":
        return True
    if plugin.secret_type == "Basic Auth Credentials":
        return not _PLACEHOLDER.fullmatch(found)
    return any(mark.isdigit() for mark in found)


def _random(text: str) -> Found | None:
    """A long string whose capitals, small letters and digits change more often than in any name; none in an address, where ids are such strings."""
    for found in _LONG.finditer(text):
        run = max(re.findall(r"[A-Za-z0-9]+", found[0]), key=len, default="")  # names of models have many short ones
        kinds = ["0" if mark.isdigit() else "a" if mark.islower() else "A" for mark in run]
        changes = sum(one != two for one, two in itertools.pairwise(kinds))
        if len(run) >= 18 and {"0", "a", "A"} == set(kinds) and kinds.count("0") >= 3 and changes > 0.4 * len(run):
            begun = max(text.rfind(mark, 0, found.start()) for mark in " \n\"'`(<") + 1
            before = text[begun : found.start()]
            if "://" not in before and not _INTEGRITY.search(before + found[0]):
                return TOKEN, "a long random string", found.start()
    return None


def _assigned(text: str, code: bool) -> Found | None:
    """A value that is given to the name of a secret: in quotes; without them in what is no code, and in code's comments and for NAMES, or if it looks the part."""
    for found in _ASSIGNED.finditer(text):
        value, bare = found["double"] or found["single"] or found["bare"], found["bare"]
        before = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
        said = not code or "#" in before or found[0][:4].isupper()
        if bare and ("://" in bare or not re.search(r"\d" if said else r"(?=(?:\D*\d){3})(?=.*[A-Za-z])^[\w+/=-]{16,}$", bare)):
            continue
        if _is_value(value, found):
            return TOKEN, "a value of a secret's name", found.start()
    return None


def _is_value(value: str, name: re.Match[str]) -> bool:
    """Whether this can be the value of such a secret, and is no placeholder; keys and tokens are words in this field, so theirs must look the part."""
    if _PLACEHOLDER.fullmatch(value):
        return False
    if name["token"] or name["env"]:
        return bool(re.fullmatch(r"(?=.*\d)(?=.*[A-Za-z])[\w.~+/=:-]{16,}", value))
    if name["short"]:
        return bool(re.fullmatch(r"(?=.*\d)(?=.*[A-Za-z])\S{6,}", value))
    if name["key"]:
        return bool(re.fullmatch(r"(?=.*\d)\S{8,}", value))
    return len(value) >= 4 and not re.fullmatch(r"[\d.e+-]{1,5}", value)


# -------------------------------------------------------------------------------------------------------- documents

Statement = tuple[str, str]  # name ("": none, as of a list in a list), value


def _find_in_statements(statements: list[Statement], text: str, own: set[str]) -> Finding | None:
    """What a document says must not leave; the line is that of the value in the document's text."""
    said = {f"{name}: {value}" if name and value else name or value: (name, value) for name, value in statements}
    suspect = find_in_text("\n".join(said), own) is not None  # all at once; one by one only to say where
    for line, (name, value) in said.items():
        named = _NAMED.search(name) if value else None
        inner = find_in_text(line, own) if suspect else None
        if named and _is_value(value, named):
            found = (TOKEN, "a value of a secret's name")
        elif inner is not None and inner.what != PATH:
            found = (inner.what, inner.rule)
        elif inner is not None or is_path(value) or (not value and is_path(name)):
            found = (f"{PATH} among its values", "local path")
        else:
            continue
        where = value or name
        if inner is not None and inner.line > 1 and text.find(where) < 0:  # YAML indents the lines of a long value
            where = line.split("\n")[inner.line - 1].strip()
        return Finding(*found, _line_of(where, text))
    return None


def _line_of(value: str, text: str) -> int:
    """Where a value is in the text of a document, which may have written it with escapes; 1 if it cannot be told."""
    place = text.find(value)
    if place < 0:
        for found in re.finditer(r'"(?:[^"\\]|\\.)*"', text):
            try:
                if value in json.loads(found[0]):
                    place = found.start()
                    break
            except ValueError:
                continue
    return text.count("\n", 0, max(place, 0)) + 1


def _find_in_json(text: str, own: set[str], vocabulary: bool = False) -> Finding | None:
    statements = _json(text, vocabulary)
    found = _find_in_statements(statements, text, own)
    if found is None and vocabulary:
        tokens = [each for statement in _json(text) for each in statement if each]
        found = _finding(_own(text, own) or _format("\n".join(tokens)), text)
    return found


def _json(text: str, vocabulary: bool = False) -> list[Statement]:
    """Every statement of a JSON document, also of a key that is given twice; vocabulary: not those of a tokenizer's tokens and merges."""
    try:
        document = json.loads(text, object_pairs_hook=_Pairs)
        return list(_statements(document, "", {"vocab", "merges"} if vocabulary else set()))
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None


class _Pairs(list[Any]):
    """Keys and values of an object."""


def _statements(value: Any, name: str, without: set[str]) -> Iterator[Statement]:
    if isinstance(value, _Pairs):
        for key, each in value:
            yield key, ""
            if key not in without:
                yield from _statements(each, key, without)
    elif isinstance(value, list):
        for each in value:
            yield from _statements(each, name, without)
    elif isinstance(value, str):
        yield name, value
        if value[:1] in ("{", "["):  # a document in a text, as in metadata of safetensors
            try:
                inner = json.loads(value, object_pairs_hook=_Pairs)
            except ValueError:
                return
            yield from _statements(inner, name, without)


def _yaml(text: str) -> list[Statement]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return list(_yaml_statements(node, "", set()))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ValueError("it is no YAML") from None


def _yaml_statements(node: Any, name: str, seen: set[int]) -> Iterator[Statement]:
    """Of the nodes, each once: an alias stands for the same node, and may be inside of it."""
    if isinstance(node, yaml.ScalarNode):
        yield name, node.value
    elif node is not None and id(node) not in seen:
        seen.add(id(node))
        for each in node.value:
            if isinstance(node, yaml.MappingNode):
                key = each[0].value if isinstance(each[0], yaml.ScalarNode) else ""
                yield from _yaml_statements(each[0], "", seen)
                yield from _yaml_statements(each[1], key, seen)
            else:
                yield from _yaml_statements(each, name, seen)


def _find_in_page(text: str, own: set[str]) -> Finding | None:
    """Of a page: its data, and what is no script or style. Paths count in the files that the data come from: single tokens may look like one."""
    data = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)
    lines = [
        f"{name}: {value}" if name and value else name or value for each in data for name, value in dict.fromkeys(_json(each))
    ]
    shown = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    said = "\n".join([*lines, shown])
    found = _own(text, own) or _own(said, own) or _format(said) or _random(said)
    return None if found is None else Finding(found[0], found[1], 1)


def _png_texts(data: bytes) -> Iterator[str]:
    """Every text of a PNG, compressed or not, and what comes after its end."""
    place = 8
    while place + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        body, place = data[place + 8 : place + 8 + size], place + 12 + size
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            for start in [i + 1 for i in range(min(len(body), 1000)) if body[i : i + 1] == b"\0"]:
                try:
                    yield zlib.decompressobj().decompress(body[start:].lstrip(b"\0"), LONGEST_CHUNK).decode("utf-8", "replace")
                except zlib.error:
                    continue
        if kind not in (b"IDAT", b"PLTE", b"iCCP"):
            yield body.decode("utf-8", "replace").replace("\0", " ")
        if kind == b"IEND":
            break
    yield data[place:].decode("utf-8", "replace")
