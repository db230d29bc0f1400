"""Miniature releases of both corpora with every oddity that the real ones are known for."""

import os
import wave

import numpy as np

from tests.extract import samples

# Every class a different count, all sessions, both speakers of a recording by either marker.
IEMOCAP_TURNS = {
    # id: (code, class, speaker, side if the marker wearer is left, transcript)
    "Ses01F_impro01_F000": ("neu", "neu", "Ses01F", "left", "Excuse me."),
    "Ses01F_impro01_M000": ("ang", "ang", "Ses01M", "right", "[LAUGHTER] I-- I don't -- know..."),
    "Ses01F_impro01_M001": ("fru", "", "Ses01M", "right", "What?"),
    "Ses01M_script01_1b_F000": ("exc", "hap", "Ses01F", "right", "Caf\N{REPLACEMENT CHARACTER}!"),
    "Ses02F_impro02_F001": ("hap", "hap", "Ses02F", "left", "Great: [really] great."),
    "Ses03M_impro03_M001": ("neu", "neu", "Ses03M", "left", "No alignment here."),
    "Ses04F_impro04_M002": ("sad", "sad", "Ses04M", "right", None),
    "Ses05M_impro05_F003": ("sad", "sad", "Ses05F", "right", "[BREATHING]"),
    "Ses05M_impro05_M004": ("xxx", "", "Ses05M", "left", "Hm."),
    "Ses05M_impro05_M005": ("hap", "hap", "Ses05M", "left", "Yes."),
}

MSP_TURNS = {
    # id: (code, class, speaker, session, transcript)
    "MSP-IMPROV-S01A-F01-S-FM01": ("N", "neu", "F01", "1", "How can I not?"),
    "MSP-IMPROV-S01A-M01-S-FM02": ("A", "ang", "M01", "1", "Well.\nReally well."),
    "MSP-IMPROV-S02H-F02-P-FM11": ("H", "hap", "F02", "2", "Sure."),
    "MSP-IMPROV-S03S-M06-R-FM01": ("S", "sad", "M06", "6", "Fine."),
    "MSP-IMPROV-S04N-F03-T-MF07": ("X", "", "F03", "3", "Um."),
    "MSP-IMPROV-S05H-M04-S-FM03": ("O", "", "M04", "4", ""),
    "MSP-IMPROV-S06A-F05-S-FM04": ("S", "sad", "F05", "5", None),
    "MSP-IMPROV-S07N-M05-T-FM05": ("N", "neu", "M05", "5", "   "),
}


def write(file: str, content: str | bytes) -> None:
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with open(file, "wb") as f:
        f.write(content if isinstance(content, bytes) else content.encode())


def write_wav(file: str, seconds: float, rate: int = 16_000, silent: bool = False) -> None:
    """A hum whose pitch depends on the name, mono, 16 bit."""
    time = np.arange(round(seconds * rate)) / rate
    hum = np.sin(2 * np.pi * (80 + sum(os.path.basename(file).encode()) % 200) * time)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with wave.open(file, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes((hum * (0 if silent else 9000)).astype("<i2").tobytes())


def write_video(file: str, frames, rate: float = 30.0) -> None:
    """Frames `[T, H, W, 3]` uint8 in OpenCV's order of colours, as an .avi of JPEGs."""
    import cv2

    height, width = frames[0].shape[:2]
    os.makedirs(os.path.dirname(file), exist_ok=True)
    writer = cv2.VideoWriter(file, cv2.VideoWriter_fourcc(*"MJPG"), rate, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()


def msp_improv_with_video(root: str, sessions: int) -> str:
    """Writes a release of eight turns a session, each with a real face for 0.4 s, and returns its
    folder. The third has no face; the faces differ in place and brightness.
    """
    root = os.path.join(root, "MSP-IMPROV")
    photo = samples.photo(110, 130).astype(int)
    lines = []
    for number in range(8 * sessions):
        session, (turn, sex) = 1 + number // 8, divmod(number % 8, 2)
        tail = f"S0{1 + turn}{'ANHS'[turn]}-{'FM'[sex]}0{session}-S-FM0{turn}"
        folder = f"session{session}/{tail[:4]}/S/MSP-IMPROV-{tail}"
        lines.append(f"UTD-IMPROV-{tail}.avi; {'ANHS'[turn]}; A:3.0; V:3.0; D:3.0 ; N:4.0;")
        write_wav(f"{root}/Audio/{folder}.wav", 0.3 + 0.02 * number, rate=44_100)
        words = " ".join(samples.WORDS[13 + number % 8 : 16 + number % 8])
        write(f"{root}/All_human_transcriptions/MSP-IMPROV-{tail}.txt", words)
        frames = np.full((12, 160, 200, 3), 20 * turn, np.uint8)
        left = 5 + 11 * (number % 8)
        if number != 2:
            for t in range(12):
                frames[t, 20:150, left : left + 110] = np.clip(photo + 10 * turn - 2 * t, 0, 255)
        write_video(f"{root}/Video/{folder}.avi", frames)
    write(f"{root}/Evaluation.txt", "\n".join(lines) + "\n")
    return root


def iemocap(root: str) -> str:
    """Writes a release and returns its folder."""
    root = os.path.join(root, "IEMOCAP_full_release")
    evaluations: dict[str, list[str]] = {}
    texts: dict[str, list[str]] = {}
    for number, (identifier, (code, _, _, _, text)) in enumerate(IEMOCAP_TURNS.items()):
        dialogue = identifier.rpartition("_")[0]
        start, end = 6.2901 + number, 7.5 + number
        evaluations.setdefault(
            dialogue, ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        )
        evaluations[dialogue] += [
            f"[{start:.4f} - {end:.4f}]\t{identifier}\t{code}\t[2.5000, 2.5000, 2.5000]",
            "C-E2:\tNeutral;\t()",
            "A-E3:\tval 3; act 2; dom  2;\t(hm)",
            "",
        ]
        if text is not None:
            texts.setdefault(dialogue, []).append(
                f"{identifier} [{start:08.4f}-{end:08.4f}]: {text}"
            )
        session = f"{root}/Session{identifier[4]}"
        write_wav(f"{session}/sentences/wav/{dialogue}/{identifier}.wav", 0.2 + 0.1 * number)
        write(f"{session}/sentences/wav/{dialogue}/._{identifier}.wav", b"\0\5\26\7")
        if identifier != "Ses03M_impro03_M001":
            write(f"{session}/sentences/ForcedAlignment/{dialogue}/{identifier}.wdseg", "0 9 <s>")
    # Two voices at once, and speech that nobody evaluated.
    evaluations["Ses01F_impro01"].append("[1.0 - 2.0]\tSes01F_impro01_MXX0\tneu\t[2.0, 2.0, 2.0]")
    texts["Ses01F_impro01"] += ["Ses01F_impro01_MXX0 [001.0-002.0]: Both.", "M: Hello?", "F: Hi."]
    for dialogue, lines in evaluations.items():
        folder = f"{root}/Session{dialogue[4]}/dialog"
        write(f"{folder}/EmoEvaluation/{dialogue}.txt", "\n".join(lines) + "\n")
        write(f"{folder}/EmoEvaluation/._{dialogue}.txt", b"\0\5\26\7Mac OS X\n[\2")
        write(f"{folder}/EmoEvaluation/Categorical/{dialogue}_e2_cat.txt", "[bad]\tline")
        if dialogue in texts:
            content = "\r\n".join(texts[dialogue]).encode()
            content = content.replace("\N{REPLACEMENT CHARACTER}".encode(), b"\xe9")  # Latin-1
            write(f"{folder}/transcriptions/{dialogue}.txt", content)
    return root


def msp_improv(root: str, evaluation: str = "Evalution.txt") -> str:
    """Writes a release and returns its folder; `evaluation` is the file's spelling."""
    root = os.path.join(root, "MSP-IMPROV")
    lines = []
    for number, (identifier, (code, _, speaker, session, text)) in enumerate(MSP_TURNS.items()):
        tail = identifier.removeprefix("MSP-IMPROV-")
        scores = "A:NaN; V:NaN; D:NaN ; N:NaN;" if number % 2 else "A:3.0; V:3.0; D:3.0 ; N:4.0;"
        lines += [f"UTD-IMPROV-{tail}.avi; {code}; {scores}", f"rater-{speaker}; {code}; A:3.0", ""]
        sentence, scenario = tail[:4], tail.split("-")[2]
        folder = f"session{session}/{sentence}/{scenario}"
        write_wav(f"{root}/Audio/{folder}/{identifier}.wav", 0.3 + 0.05 * number, rate=44_100)
        write(f"{root}/Audio/{folder}/._{identifier}.wav", b"\0\5\26\7")
        if text is not None:
            place = f"session{session}/" if number % 2 else ""
            write(f"{root}/All_human_transcriptions/{place}{identifier}.txt", text)
    lines.append("UTD-IMPROV-broken; N")
    write(f"{root}/{evaluation}", "\n".join(lines) + "\n")
    return root
