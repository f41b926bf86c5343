"""Stories in German, Hindi and Chinese that the tests generate, and how much of a told story is in these languages.

A grammar of each language is a table of words and templates. A field `{a:...}` of a template inflects the noun `a`,
and `{word}` draws from the table `word`. Each template writes a blank between words; the Chinese text has none.
"""
# ruff: noqa: RUF001 (this file needs characters that look like others)

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache

from model.sentences import words_of

ARTICLES = {  # of a German case, by its masculine form, and the ending of the adjective
    **{"der": "der die das", "den": "den die das", "dem": "dem der dem"},
    **{"ein": "ein+er eine+e ein+es", "einen": "einen+en eine+e ein+es", "einem": "einem+en einer+en einem+en"},
}


@dataclass(frozen=True)
class Noun:
    """A noun with an adjective. A format of several forms, "er|sie|es", chooses the one of its gender."""

    word: str
    other: str  # German and Hindi: the form in other cases; Chinese: the measure word
    gender: int
    adjective: str

    def __format__(self, form: str) -> str:
        return form.split("|")[self.gender] if "|" in form else self.inflected(form)

    def inflected(self, form: str) -> str:
        raise NotImplementedError


class German(Noun):
    """Forms are the masculine article of the case. The adjective stands with an indefinite article."""

    def inflected(self, form: str) -> str:
        article, _, ending = ARTICLES[form].split()[self.gender].partition("+")
        adjective = f" {self.adjective}{ending}" if ending else ""
        return f"{article}{adjective} {self.word if form in ('der', 'ein') else self.other}"


class Hindi(Noun):
    """Forms: "" and "को" (the case before a postposition), and "एक" and "एक को" with the adjective."""

    def inflected(self, form: str) -> str:
        oblique = form.endswith("को")
        word, adjective = self.other if oblique else self.word, self.adjective
        if adjective.endswith("ा") and (oblique or self.gender):  # छोटा छोटे छोटी, but नया नए नई
            new = adjective.endswith("या")
            adjective = adjective[: -2 if new else -1] + ("एई" if new else "ेी")[self.gender]
        return f"एक {adjective} {word}" if form.startswith("एक") else word


class Chinese(Noun):
    """Forms: "" and "一", with measure word and adjective."""

    def inflected(self, form: str) -> str:
        return f"一 {self.other} {self.adjective} {self.word}" if form else self.word


GERMAN = {
    "creature": """Fuchs Igel Frosch Rabe/Raben Hase/Hasen Bär/Bären Wolf Hund Kater Vogel Esel Dachs Löwe/Löwen Käfer
        ; Maus Katze Ente Eule Ziege Gans Schnecke Kröte Biene Krähe Kuh Amsel
        ; Pferd Schaf Eichhörnchen Reh Huhn Lamm Kalb Ferkel Küken Kätzchen""",
    "thing": """Schlüssel Apfel Ring Kuchen Stein Korb Hut Löffel Topf Schuh Knopf Stock
        ; Nuss Münze Laterne Glocke Kugel Feder Flöte Perle Birne Mütze
        ; Brot Buch Boot Tuch Ei Herz Messer Glöckchen Körbchen Spielzeug""",
    "like": "klein, groß, alt, jung, schlau, fröhlich, mutig, hungrig, grau, weiß, dick, arm, brav, süß, frech",
    "kind": "klein, groß, alt, rund, rot, blau, schön, schwer, grün, bunt, seltsam, neu, glänzend, winzig, gelb",
    "place": """im Wald/in den Wald, am Fluss/an den Fluss, auf der Wiese/auf die Wiese, im Garten/in den Garten,
        unter der Brücke/unter die Brücke, auf dem Berg/auf den Berg, im Dorf/in das Dorf, am Brunnen/an den Brunnen,
        in der Höhle/in die Höhle, hinter der Mühle/hinter die Mühle, am See/an den See, vor dem Schloss/vor das
        Schloss""",
    "name": "Lukas, Jürgen, Björn, Hänsel, Emil, Jörg; Anna, Käthe, Grete, Frieda, Lotte, Bärbel",
    "time": """Eines Tages, Am Morgen, Im Frühling, Im Herbst, Am nächsten Tag, In der Nacht, Eines Abends, Bald,
        Im Sommer, Im Winter, Plötzlich, Schließlich""",
    "go": "lief, ging, rannte, schlich, wanderte, hüpfte, eilte, sprang, zog",
    "say": "sagte, rief, flüsterte, antwortete, murmelte, lachte",
    "shout": "lachte, rief, sang, weinte, pfiff",
    "ask": "fragte, rief, flüsterte, murmelte",
    "feel": "müde, hungrig, neugierig, traurig, fröhlich, durstig, allein, zufrieden, glücklich, böse",
    "see": "fand, sah, entdeckte, suchte, trug, holte, nahm",
    "meet": "sah, hörte, grüßte, begleitete, suchte, fragte, rettete",
    "how": "hell, schön, wie Gold, in der Sonne, im Mondlicht, wie ein Stern",
    "number": "zwei, drei, vier, fünf, sechs, sieben, acht, neun, zehn, zwölf",
    "unit": "Tagen, Stunden, Wochen, Jahren, Monaten, Nächten",
    "sky": "Die Sonne schien, Der Wind wehte, Ein Sturm tobte, Der Schnee fiel, Es regnete, Es donnerte",
    "day": "Tag, Morgen, Abend, Winter, Sommer, Herbst",
    "food": "Suppe, Kuchen, Äpfel, Nüsse, Brot, Käse, Honig, Brei, Klöße",
}
GERMAN_PARTS = (
    (
        "Es war einmal {a:ein}, {a:der|die|das} {wo} lebte.",
        "Vor langer Zeit wohnte {wo} {a:ein}.",
        "Einst lebte {wo} {a:ein} mit {b:einem}.",
    ),
    ("{a:Er|Sie|Es} hieß {who}.", "Alle nannten {a:ihn|sie|es} {who}.", "Die Freunde sagten {who} zu {a:ihm|ihr|ihm}."),
    (
        "{time} {go} {a:der} {wohin}.",
        "{a:Er|Sie|Es} war {feel} und {go} {wohin}.",
        "Auf dem Weg {see} {a:er|sie|es} {t:einen}.",
        "Da kam {b:ein} und {shout} laut.",
        "{time} {meet} {b:der} {a:den}.",
        "{wo2} lag {t:der} und glänzte {how}.",
        "Dort gab {a:der} {b:dem} {t:den}.",
        "Nach {number} {unit} war {a:der} wieder {wo}.",
        "{sky} den ganzen {day}.",
    ),
    (
        "„Wo ist {t:der}?“, {ask} {b:der}.",
        "„Hast du {t:einen} gesehen?“, {ask} {a:der}.",
        "„Ich habe {t:den} gefunden!“, {say} {a:der}.",
        "„Komm mit mir {wohin}!“, {say} {b:der}.",
        "„Bist du {feel}?“, {ask} {b:der}.",
        "„Hab keine Angst, {who}“, {say} {b:der}.",
        "„Danke, {b:mein Freund|meine Freundin|mein Freund}!“, {say} {a:der}.",
    ),
    (
        "Von diesem Tag an waren {a:der} und {b:der} Freunde.",
        "Und wenn sie nicht gestorben sind, dann leben sie noch heute.",
        "Am Abend aßen beide {food} und waren {feel}.",
        "Dann schlief {a:der} {wo} ein.",
        "Seitdem {go} {a:der} nie wieder allein {wohin}.",
    ),
)
HINDI = {
    "creature": """शेर हाथी बंदर भालू खरगोश हिरन मोर तोता/तोते कौआ/कौए घोड़ा/घोड़े कुत्ता/कुत्ते गधा/गधे मेंढक चूहा/चूहे साँप ऊँट सियार
        ; लोमड़ी बिल्ली चिड़िया गाय बकरी मछली गिलहरी तितली मैना बत्तख मुर्गी कोयल शेरनी""",
    "thing": """फल आम पत्थर फूल डिब्बा/डिब्बे मोती सिक्का/सिक्के घड़ा/घड़े जूता/जूते दीपक छाता/छाते पंख
        ; चाबी अंगूठी किताब टोकरी घंटी टोपी बाँसुरी माला गेंद मूर्ति लालटेन पतंग""",
    "dish": "हलवा/हलवे लड्डू दही पनीर ; खीर मिठाई जलेबी रोटी सब्ज़ी खिचड़ी",
    "like": "छोटा, बड़ा, बूढ़ा, काला, भूखा, प्यासा, मोटा, दुबला, चालाक, सुंदर, बहादुर, सफ़ेद, दयालु, आलसी, समझदार",
    "kind": "छोटा, बड़ा, पुराना, नया, नीला, पीला, सुनहरा, अनोखा, लाल, गोल, सुंदर, चमकदार, भारी, हरा",
    "place": """जंगल में/जंगल की ओर, नदी के किनारे/नदी की ओर, पेड़ के नीचे/पेड़ की ओर, पहाड़ पर/पहाड़ की ओर,
        गाँव में/गाँव की ओर, बाग़ में/बाग़ की ओर, तालाब के पास/तालाब की ओर, गुफ़ा में/गुफ़ा की ओर, खेत में/खेत की ओर,
        कुएँ के पास/कुएँ की ओर, मंदिर के पीछे/मंदिर की ओर, झील के किनारे/झील की ओर""",
    "name": "मोहन, राजू, गोपाल, भोला, चीकू, हीरा; सीता, मीना, गौरी, रानी, चमेली, लाली",
    "time": "एक दिन, सुबह, शाम को, रात में, अगले दिन, अचानक, गर्मियों में, सर्दियों में, दोपहर को, आख़िरकार",
    "go": "गया|गई, दौड़ा|दौड़ी, चल पड़ा|चल पड़ी, निकला|निकली, भागा|भागी, लौटा|लौटी, आया|आई, बढ़ा|बढ़ी",
    "do": "हँसने, रोने, गाने, नाचने, खेलने, काँपने, सोचने, दौड़ने, कूदने, चिल्लाने",
    "say": "कहा, धीरे से कहा, हँसकर कहा, ख़ुशी से कहा, ज़ोर से कहा, प्यार से कहा, डरते हुए कहा, मुस्कुराकर कहा",
    "feel": "भूख, प्यास, ठंड, चोट, गर्मी",
    "see": "देखा|देखी, पाया|पाई, उठाया|उठाई, ढूँढा|ढूँढी, ख़रीदा|ख़रीदी, छिपाया|छिपाई, बेचा|बेची",
    "meet": "देखा, बुलाया, रोका, समझाया, हँसाया, जगाया, पहचाना, बचाया",
    "number": "दो, तीन, चार, पाँच, छह, सात, आठ, नौ, दस",
    "unit": "दिन, घंटे, महीने, साल, हफ़्ते",
    "sky": """आसमान में बादल छा गए, ठंडी हवा चल रही थी, सूरज निकल आया था, बारिश होने लगी, चाँद चमक रहा था,
        पेड़ों पर पक्षी गा रहे थे, चारों ओर अँधेरा था, धूप बहुत तेज़ थी""",
    "moral": """सच्चा दोस्त मुसीबत में काम आता है, लालच बुरी बला है, मेहनत का फल मीठा होता है, एकता में बल है,
        झूठ के पाँव नहीं होते, जल्दी का काम शैतान का होता है""",
}
HINDI_PARTS = (
    (
        "एक समय की बात है, {wo} {a:एक} {a:रहता था|रहती थी}।",
        "बहुत पहले {wo} {a:एक} {a:रहता था|रहती थी}।",
        "{wo} {a:एक} {b:एक को} के साथ {a:रहता था|रहती थी}।",
    ),
    ("उसका नाम {who} था।", "सब उसे {who} कहते थे।", "दोस्त उसे प्यार से {who} कहते थे।"),
    (
        "{time} {a} {wohin} {a:{go}}।",
        "{a:को} को बहुत {feel} लगी थी।",
        "रास्ते में {a:को} ने {t:एक} {t:{see}}।",
        "तभी {b:एक} वहाँ {b:आया|आई} और {do} {b:लगा|लगी}।",
        "{time} {b:को} ने {a:को} को {meet}।",
        "{wo2} {t} {t:पड़ा था|पड़ी थी} और चमक {t:रहा था|रही थी}।",
        "{a:को} ने {b:को} को {t} {t:दिया|दी}।",
        "{number} {unit} बाद {a} फिर {wohin} {a:{go}}।",
        "{sky}।",
    ),
    (
        "“{t:मेरा|मेरी} {t} कहाँ है?” {b:को} ने पूछा।",
        "“क्या तुमने {t:मेरा|मेरी} {t} {t:देखा|देखी} है?” {a:को} ने पूछा।",
        "“मुझे {t:एक} {t:मिला|मिली} है!” {a:को} ने {say}।",
        "“मेरे साथ {wohin} चलो,” {b:को} ने {say}।",
        "“डरो मत, {who},” {b:को} ने {say}।",
        "“चलो, हम {f} खाएँ!” {b:को} ने {say}।",
        "“धन्यवाद, {b:मेरे|मेरी} दोस्त,” {a:को} ने {say}।",
    ),
    (
        "उस दिन से दोनों में गहरी दोस्ती हो गई।",
        "फिर दोनों ने मिलकर {f} {f:खाया|खाई}।",
        "{a} ख़ुश होकर घर {a:लौटा|लौटी}।",
        "रात को {a} आराम से {a:सो गया|सो गई}।",
        "सच है, {moral}।",
    ),
)
CHINESE = {
    "creature": """狐狸/只 兔子/只 猴子/只 老虎/只 狮子/只 熊猫/只 小鸟/只 乌龟/只 青蛙/只 松鼠/只 刺猬/只 山羊/只
        蝴蝶/只 猫头鹰/只 公鸡/只 鸭子/只 大象/头 水牛/头 驴子/头 白马/匹 小狗/条 小蛇/条 金鱼/条 狼/只 老鼠/只""",
    "thing": """钥匙/把 雨伞/把 剪刀/把 书/本 珍珠/颗 星星/颗 种子/颗 苹果/个 铃铛/个 篮子/个 盒子/个 风筝/只 金币/枚
        戒指/枚 石头/块 手帕/块 镜子/面 帽子/顶 灯笼/盏 花/朵 蘑菇/朵 羽毛/根 笛子/支 围巾/条 地图/张""",
    "like": "聪明 的, 可爱 的, 勇敢 的, 年轻 的, 善良 的, 懒惰 的, 骄傲 的, 调皮 的, 温柔 的, 胆小 的, 白色 的",
    "kind": "美丽 的, 金色 的, 红色 的, 蓝色 的, 绿色 的, 神奇 的, 漂亮 的, 奇怪 的, 普通 的, 珍贵 的, 黄色 的",
    "place": "森林 里, 河 边, 山 上, 村子 里, 花园 里, 桥 下, 井 边, 湖 边, 山洞 里, 大树 下, 田野 上, 草地 上",
    "name": "明明, 小白, 阿宝, 丽丽, 豆豆, 毛毛, 花花, 乐乐, 贝贝, 圆圆, 天天, 果果",
    "time": "一天, 早上, 晚上, 第二天, 春天, 夏天, 秋天, 冬天, 有一次, 傍晚, 中午",
    "how": "高兴 地, 慢慢 地, 悄悄 地, 小心 地, 急忙, 轻轻 地, 开心 地, 着急 地, 兴奋 地",
    "go": "走, 跑, 来, 赶, 爬, 回",
    "see": "看见 了, 发现 了, 捡 到 了, 找到 了, 买 了, 丢 了, 带 来 了",
    "meet": "看见 了, 遇见 了, 叫醒 了, 帮助 了, 救 了, 安慰 了",
    "very": "很, 非常, 有点, 十分, 特别",
    "feel": "饿, 渴, 累, 冷, 高兴, 害怕, 难过, 孤单, 好奇, 快乐",
    "light": "阳光 下, 月光 下, 草丛 里, 水 里, 黑暗 中",
    "number": "两, 三, 四, 五, 六, 七, 八, 九, 十",
    "unit": "天, 年, 个 月, 个 小时",
    "sky": "天空 下 起 了 大雨, 太阳 慢慢 地 升 了 起来, 风 轻轻 地 吹 着, 月亮 又 大 又 圆, 雪花 从 天上 飘 下来",
    "food": "面包, 蛋糕, 水果, 饺子, 米饭, 蜂蜜, 西瓜, 月饼, 面条, 玉米",
    "moral": "团结 就 是 力量, 好 朋友 要 互相 帮助, 做 人 要 诚实, 不 要 骄傲, 只要 努力 ， 就 会 成功",
}
CHINESE_PARTS = (
    ("从前 ， {wo} 住 着 {a:一} 。", "很久 以前 ， {wo} 有 {a:一} 。", "{time} ， {wo} 来 了 {a:一} 。"),
    ("它 的 名字 叫 {who} 。", "大家 都 叫 它 {who} 。", "它 叫 {who} ， 朋友 们 都 喜欢 它 。"),
    (
        "{time} ， {a} {how} {go} 到 {wo2} 。",
        "路 上 ， 它 {see} {t:一} 。",
        "{a} 觉得 {very} {feel} 。",
        "这 时 ， {b:一} {how} 走 了 过来 。",
        "{time} ， {b} {meet} {a} 。",
        "{t} 在 {light} 闪闪 发光 。",
        "{a} 把 {t} 送 给 了 {b} 。",
        "过 了 {number} {unit} ， {a} 又 {go} 到 {wo2} 。",
        "{sky} 。",
    ),
    (
        "“ {t} 在 哪里 ？ ” {b} {how} 问 。",
        "“ 你 看见 我 的 {t} 了 吗 ？ ” {a} 问 。",
        "“ 我 找到 了 {t:一} ！ ” {a} {how} 说 。",
        "“ 别 害怕 ， {who} ， ” {b} 说 ， “ 我 来 帮助 你 。 ”",
        "“ 我们 一起 去 玩 吧 ！ ” {b} {how} 说 。",
        "“ 谢谢 你 ， 我 的 朋友 。 ” {a} {how} 说 。",
    ),
    (
        "从此 ， {a} 和 {b} 成 了 好 朋友 。",
        "它们 一起 吃 {food} ， 过 着 幸福 的 生活 。",
        "晚上 ， {a} 在 {wo} 睡着 了 。",
        "这个 故事 告诉 我们 ： {moral} 。",
    ),
)
LANGUAGES = {
    "german": (German, GERMAN, GERMAN_PARTS),
    "hindi": (Hindi, HINDI, HINDI_PARTS),
    "chinese": (Chinese, CHINESE, CHINESE_PARTS),
}
SENTENCES = 1, 1, 4, 2, 2  # of each part of a story


class Cast(dict):
    """What a story is about. Any other field of a template is drawn from the table of its name, each time anew."""

    def __init__(self, language: str, draw: random.Random) -> None:
        self.kind, self.tables, _ = LANGUAGES[language]
        self.draw = draw
        (a, b), (t,) = self.nouns("creature", "like", 2), self.nouns("thing", "kind", 1)
        names = self.tables["name"].split(";")
        (wo, _, _), (wo2, _, wohin) = (it.partition("/") for it in draw.sample(self.table("place"), 2))
        super().__init__(a=a, b=b, t=t, wo=wo, wo2=wo2, wohin=wohin)
        self["who"] = draw.choice(names[a.gender % len(names)].split(",")).strip()
        if "dish" in self.tables:
            (self["f"],) = self.nouns("dish", "like", 1)

    def __missing__(self, field: str) -> str:
        return self.draw.choice(self.table(field))

    def table(self, field: str) -> list[str]:
        return [entry.strip() for entry in self.tables[field].split(",")]

    def nouns(self, field: str, adjectives: str, count: int) -> list[Noun]:
        genders = enumerate(self.tables[field].split(";"))
        drawn = self.draw.sample([(gender, entry) for gender, group in genders for entry in group.split()], count)
        forms = [(gender, *entry.partition("/")) for gender, entry in drawn]
        return [self.kind(word, other or word, gender, self[adjectives]) for gender, word, _, other in forms]


def spaced(count: int, seed: int, language: str) -> list[str]:
    """Stories, all different, with a blank between any two words."""
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        cast = Cast(language, draw)
        parts = []
        for templates, number in zip(LANGUAGES[language][2], SENTENCES, strict=True):
            chosen = sorted(draw.sample(range(len(templates)), number))
            filled = [" ".join(templates[i].format_map(cast).split()) for i in chosen]
            parts.append(" ".join(sentence[0].upper() + sentence[1:] for sentence in filled))
        found["\n".join((f"{parts[0]} {parts[1]}", *parts[2:]))] = None
    return list(found)


def stories(count: int, seed: int, language: str) -> list[str]:
    """Stories in "german", "hindi" or "chinese", all different."""
    texts = spaced(count, seed, language)
    return [text.replace(" ", "") for text in texts] if language == "chinese" else texts


@cache
def lexicon(language: str) -> frozenset[str]:
    """The words of the stories of a language, in lower case."""
    text = "\n".join(spaced(2_000, 0, language)).lower()
    return frozenset(filter(str.isalnum, text.split()) if language == "chinese" else words_of(text))


def share_known(story: str, language: str) -> float:
    """The share of a story's words that are in the lexicon of a language; 0 for a story without words.

    A Chinese story is parted into the longest known words from its start on; any other character is an unknown word.
    """
    known, words = lexicon(language), words_of(story)
    if language == "chinese":
        words = re.findall("|".join([*sorted(known, key=len, reverse=True), r"[^\W_]"]), story.lower())
    return sum(word in known for word in words) / max(1, len(words))
