#!/usr/bin/env bash
# sentencepiece 0.2.3 brings classes that protobuf 7.36.1 generated, which no older protobuf loads. It declares no
# dependency on protobuf, so pip installs both side by side, and transformers then reads no spiece.model: it says that
# tiktoken is missing, of which nothing here is in need. Where another package holds protobuf below 7 there is no mend
# but to read the file without these classes.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check sentencepiece==0.2.3 protobuf==6.33.6 transformers==5.20.2
"$work/venv/bin/python" - "$work" <<'PYTHON'
import sys
from pathlib import Path

import google.protobuf
import sentencepiece
import transformers
from transformers import T5TokenizerFast

work = Path(sys.argv[1])
text, folder = work / "text.txt", work / "tokenizer"
folder.mkdir()
text.write_text("".join(f"a picture of {number} apples, bridges and boats\n" for number in range(500)))
sentencepiece.SentencePieceTrainer.train(
    input=str(text), model_prefix=str(folder / "spiece"), vocab_size=60, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2
)
print(f"sentencepiece {sentencepiece.__version__}, protobuf {google.protobuf.__version__}, transformers {transformers.__version__}")
try:
    from sentencepiece import sentencepiece_model_pb2
except Exception as error:
    print(f"importing sentencepiece's own classes: {type(error).__name__}: {error}")
else:
    sys.exit("sentencepiece's classes can be imported: this has changed")
try:
    T5TokenizerFast.from_pretrained(folder)
except Exception as error:
    said = str(error)
    print(f"loading a folder with spiece.model alone: {type(error).__name__}: {said}")
    sys.exit(0 if "tiktoken" in said else "transformers says something else: this has changed")
sys.exit("the folder loads: this has changed")
PYTHON
echo "As described."
