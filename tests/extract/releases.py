"""Miniature releases of the corpora with every oddity that the real ones are known for."""

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

# By the tables: (part, dialogue, utterance) -> (text, speaker, emotion, sentiment).
MELD_TURNS = {
    ("train", 0, 0): ("also I was the point person", "Chandler", "neutral", "neutral"),
    ("train", 0, 1): ("You must\x92ve had your hands full.", "The Interviewer", "joy", "positive"),
    ("train", 125, 3): ("No!", "Ross ", "anger", "negative"),
    ("train", 125, 4): ("Oh, \"no\".", "Joey", "sadness", "negative"),
    ("dev", 0, 0): ("Oh my God, he\N{RIGHT SINGLE QUOTATION MARK}s lost it.", "Phoebe", "sadness", "negative"),
    ("dev", 110, 7): ("Yes.", "Joey", "neutral", "neutral"),
    ("dev", 110, 8): ("Eww!", "Joey", "disgust", "negative"),
    ("test", 0, 0): ("Why?", "Mark", "surprise", "positive"),
    ("test", 93, 5): ("Hi.", "Rachel", "fear", "negative"),
    ("test", 93, 6): ("Hey.", "Mark", "joy", "positive"),
}  # fmt: skip
_MELD_FOLDERS = {
    "train": "train/train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}

CREMAD_CLIPS = (
    *("1001_DFA_ANG_XX", "1001_IEO_DIS_LO", "1019_TIE_FEA_XX", "1020_IOM_HAP_XX"),
    *("1040_ITH_SAD_X", "1076_MTI_SAD_XX", "1091_IWW_NEU_XX"),
)

RAVDESS_FILES = (
    *("03-01-01-01-01-01-01.wav", "01-01-01-01-01-01-01.mp4", "02-01-01-01-01-01-01.mp4"),
    *("03-01-02-01-02-01-04.wav", "03-01-05-02-01-02-05.wav", "01-01-08-02-02-02-24.mp4"),
    *("02-01-07-01-01-01-12.mp4", "03-02-03-01-01-01-02.wav", "01-02-03-01-01-01-02.mp4"),
)


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
        start, end = 6.2901 + number, 7.5 + 0.9 * number
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
        write_wav(f"{session}/sentences/wav/{dialogue}/{identifier}.wav", end - start)
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


def meld(root: str, sound: bool = False) -> str:
    """Writes a release and returns its folder; clips are no videos, `sound` gives them .wav files."""
    root = os.path.join(root, "MELD.Raw")
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    tables: dict[str, list[str]] = {}
    for number, ((part, dialogue, turn), row) in enumerate(MELD_TURNS.items(), start=1):
        text, speaker, emotion, sentiment = row
        quoted = text.replace('"', '""')
        tables.setdefault(part, [header]).append(
            f'{number},"{quoted}",{speaker},{emotion},{sentiment},{dialogue},{turn},'
            f'{number % 3 + 7},21,"00:16:16,059","00:16:21,731"'
        )
        clip = f"{root}/{_MELD_FOLDERS[part]}/dia{dialogue}_utt{turn}"
        if (part, dialogue) != ("dev", 110) or turn != 7:
            write(f"{clip}.mp4", f"clip {part} {number}")
        if sound:
            write_wav(f"{clip}.wav", 0.3 + 0.02 * number)
    for part, lines in tables.items():
        write(f"{root}/{part}_sent_emo.csv", "\n".join(lines) + "\n")
    test = f"{root}/{_MELD_FOLDERS['test']}"
    write(f"{test}/final_videos_testdia93_utt5.mp4", "a second copy")
    os.rename(f"{test}/dia93_utt6.mp4", f"{test}/final_videos_testdia93_utt6.mp4")
    write(f"{test}/._dia93_utt5.mp4", b"\0\5\26\7")
    write(f"{root}/{_MELD_FOLDERS['dev']}/dia66_utt9.mp4", "of no row")
    write(f"{root}/README.txt", "MELD")
    return root


def cremad(root: str) -> str:
    """Writes a release and returns its folder."""
    root = os.path.join(root, "CREMA-D")
    for number, clip in enumerate(CREMAD_CLIPS):
        write_wav(f"{root}/AudioWAV/{clip}.wav", 0.3 + 0.05 * number, silent="MTI_SAD" in clip)
        write(f"{root}/AudioMP3/{clip}.mp3", b"ID3")
        write(f"{root}/VideoFlash/{clip.replace('_X', '_XX').replace('XXX', 'XX')}.flv", b"FLV")
    write(f"{root}/AudioWAV/README.wav", b"no clip")
    write(f"{root}/processedResults/tabulatedVotes.csv", "A,D,F\n")
    return root


def ravdess(root: str) -> str:
    """Writes a release and returns its folder."""
    root = os.path.join(root, "RAVDESS")
    for number, name in enumerate(RAVDESS_FILES):
        stem, ending = name.split(".")
        actor = f"Actor_{stem[-2:]}"
        if ending == "wav":
            write_wav(f"{root}/{actor}/{name}", 0.3 + 0.05 * number, rate=48_000)
        else:
            write(f"{root}/Video_Speech_{actor}/{actor}/{name}", b"mp4")
    # The archive at Kaggle holds everything twice.
    write_wav(f"{root}/audio_speech_actors_01-24/Actor_04/{RAVDESS_FILES[3]}", 0.1)
    write(f"{root}/Actor_01/notes.wav", b"RIFF")
    return root


OWN_COLUMNS = ("id", "label", "text", "wav", "start", "end", "speaker", "session", "split")


def own(root: str, sentences: int = 24) -> str:
    """Writes a table of segments of six recordings, two classes, and returns its path."""
    rows = []
    for k in range(sentences):
        talk, turn = divmod(k, 4)
        file = f"wav/talk{talk}.wav"
        if not turn:
            write_wav(f"{root}/{file}", 2.0)
        words = " ".join(samples.WORDS[13 + k % 8 : 15 + k % 8])
        part = ("train", "dev", "test")[max(0, talk % 6 - 3)]
        times = (f"{0.5 * turn}", f"{0.5 * turn + 0.4}")
        label = ("angry", "calm")[k % 2]
        rows.append((f"u{k}", label, words, file, *times, f"p{talk}", f"{1 + talk % 3}", part))
    lines = [",".join(row) for row in [OWN_COLUMNS, *rows]]
    write(f"{root}/own.csv", "\n".join(lines) + "\n")
    return f"{root}/own.csv"
