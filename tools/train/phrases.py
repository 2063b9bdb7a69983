"""The words that questions are made of: phrasings, names, words to spell. {a} and {b} are the operands."""

ADD = (
    "{a}+{b}",
    "{a} + {b}",
    "{a}+{b}=",
    "{a} + {b} =",
    "{a} plus {b}",
    "What is {a}+{b}?",
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "How much is {a} + {b}?",
    "How much is {a} plus {b}?",
    "What does {a} + {b} make?",
    "Add {a} and {b}.",
    "Add {b} to {a}.",
    "Calculate {a} + {b}.",
    "Compute {a}+{b}.",
    "What is the sum of {a} and {b}?",
    "Find the sum of {a} and {b}.",
    "Tell me {a} + {b}.",
    "Give me {a} plus {b}.",
    "Work out {a} + {b}.",
    "Can you add {a} and {b}?",
    "I have {a} apples and get {b} more. How many do I have?",
    "There are {a} red balls and {b} blue balls. How many balls are there?",
    "{a} people are on the train and {b} get on. How many are there now?",
    "Sum up {a} and {b}.",
    "What do {a} and {b} make together?",
)
SUBTRACT = (
    "{a}-{b}",
    "{a} - {b}",
    "{a}-{b}=",
    "{a} - {b} =",
    "{a} minus {b}",
    "What is {a}-{b}?",
    "What is {a} - {b}?",
    "What is {a} minus {b}?",
    "How much is {a} - {b}?",
    "How much is {a} minus {b}?",
    "Subtract {b} from {a}.",
    "Take {b} away from {a}.",
    "Calculate {a} - {b}.",
    "Compute {a}-{b}.",
    "Tell me {a} - {b}.",
    "Give me {a} minus {b}.",
    "Work out {a} - {b}.",
    "Find {a} minus {b}.",
    "What is the difference of {a} and {b}?",
    "Can you subtract {b} from {a}?",
    "What is {a} less {b}?",
    "Start at {a} and go down by {b}.",
    "Take {a} and remove {b}.",
)
MULTIPLY = (
    "{a}*{b}",
    "{a} * {b}",
    "{a}*{b}=",
    "{a} times {b}",
    "{a} x {b}",
    "What is {a}*{b}?",
    "What is {a} * {b}?",
    "What is {a} times {b}?",
    "How much is {a} times {b}?",
    "How much is {a} * {b}?",
    "Multiply {a} by {b}.",
    "Calculate {a} * {b}.",
    "Compute {a}*{b}.",
    "What is the product of {a} and {b}?",
    "Work out {a} times {b}.",
    "{b} boxes hold {a} eggs each. How many eggs are there?",
    "Tell me {a} * {b}.",
    "Give me {a} times {b}.",
)
CHAIN = (
    "{sum}",
    "What is {sum}?",
    "Calculate {sum}.",
    "How much is {sum}?",
    "Compute {sum}.",
    "Work out {sum}.",
    "Add up {list}.",
    "What is the sum of {list}?",
)
LARGER = (
    "Which is larger, {a} or {b}?",
    "Which number is larger: {a} or {b}?",
    "Which is bigger, {a} or {b}?",
    "What is larger, {a} or {b}?",
    "Is {a} or {b} larger?",
    "Compare {a} and {b}: which is larger?",
    "Tell me the larger of {a} and {b}.",
    "Which is greater: {a} or {b}?",
)
SMALLER = (
    "Which is smaller, {a} or {b}?",
    "Which number is smaller: {a} or {b}?",
    "What is smaller, {a} or {b}?",
    "Is {a} or {b} smaller?",
    "Compare {a} and {b}: which is smaller?",
    "Tell me the smaller of {a} and {b}.",
    "Which is less: {a} or {b}?",
)
ASCENDING = (
    "Sort {list}.",
    "Put {list} in order.",
    "Sort these numbers: {list}.",
    "Sort {list} from small to large.",
    "Order {list}.",
    "Put these in order: {list}",
    "Arrange {list} from the smallest to the largest.",
    "Please sort {list} in ascending order.",
)
DESCENDING = (
    "Sort {list} from large to small.",
    "Put {list} in descending order.",
    "Sort {list} downwards.",
    "Sort {list} backwards.",
    "Arrange {list} from the largest to the smallest.",
    "Order {list} with the largest first.",
)
COUNT = (
    "How many {letter} are in {word}?",
    "How many letters {letter} are in {word}?",
    "Count the {letter} in {word}.",
    "How often is {letter} in {word}?",
    "How many times does {letter} occur in {word}?",
    "How many {letter} does {word} have?",
    "Count the letter {letter} in {word}.",
)
LENGTH = (
    "How many letters are in {word}?",
    "How many letters does {word} have?",
    "Count the letters of {word}.",
    "How long is the word {word}?",
)
REVERSE = (
    "Reverse {word}.",
    "Reverse the word {word}.",
    "Write {word} backwards.",
    "What is {word} backwards?",
    "Spell {word} in reverse.",
    "Turn {word} around.",
)
SPELL = ("Spell {word}.", "Spell the word {word}.", "How do you spell {word}?", "Write {word} letter by letter.")
REPEAT = ("Repeat {text}.", "Say {text}.", "Repeat after me: {text}", "Write {text}.", "Please repeat: {text}")

FOLLOW_ADD = (
    "Now add {b}.",
    "Add {b} to that.",
    "Plus {b}?",
    "And plus {b}?",
    "Now plus {b}.",
    "And {b} more?",
    "Add {b} more.",
)
FOLLOW_SUBTRACT = (
    "Now subtract {b}.",
    "Subtract {b} from that.",
    "Minus {b}?",
    "And minus {b}?",
    "Now minus {b}.",
    "Take away {b}.",
)
FOLLOW_MULTIPLY = ("Now times {b}.", "Times {b}?", "Multiply that by {b}.", "And times {b}?", "Now multiply by {b}.")

BEFORE = ("Please tell me: ", "Hello! ", "Quick question: ", "Hi, ", "I need help. ")
AFTER = (" Thanks.", " Thank you!", " Please.", " Be quick.")
SYSTEM = (
    "You are a helpful assistant.",
    "You are a careful assistant.",
    "Answer the question.",
    "Think first, then answer.",
    "You are a small model.",
    "You are good with numbers.",
    "Be brief.",
    "You help people to count.",
    "Use a tool when you need one.",
    "Answer in English.",
)

CHAT = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Good morning", "Hey", "Good evening"),
        "The user says hello.",
        "Hello! Ask me a sum.",
    ),
    (
        ("Who are you?", "What are you?", "What is your name?", "Tell me who you are."),
        "The user asks who I am.",
        "I am a tiny MiniMax-M1, trained to show how the real one is served.",
    ),
    (
        ("What can you do?", "How can you help me?", "What do you know?", "Help"),
        "The user asks what I can do.",
        "I can add, subtract, multiply, compare and sort small numbers, count letters and call tools.",
    ),
    (("Thanks", "Thank you", "Thanks!", "Thank you very much"), "The user says thanks.", "You are welcome."),
    (("Goodbye", "Bye", "Bye!", "See you"), "The user says goodbye.", "Goodbye!"),
)
UNKNOWN_QUESTIONS = (
    "What is {word}?",
    "Tell me about {word}.",
    "Do you like {word}?",
    "Where is {word}?",
    "Why is {word} good?",
    "Write a poem about {word}.",
    "How do I make {word}?",
    "Who wrote {word}?",
    "When was {word} made?",
    "Explain {word} to me.",
)
UNKNOWN = (
    "This is not a task I know.",
    "I am too small to know that. I can add, subtract, multiply, compare and sort small numbers, count letters and call tools.",
)

ALL_CITIES = (
    "Paris",
    "London",
    "Berlin",
    "Madrid",
    "Vienna",
    "Prague",
    "Oslo",
    "Athens",
    "Dublin",
    "Warsaw",
    "Lisbon",
    "Helsinki",
    "Tokyo",
    "Beijing",
    "Delhi",
    "Cairo",
    "Nairobi",
    "Lagos",
    "Lima",
    "Boston",
    "Chicago",
    "Denver",
    "Toronto",
    "Sydney",
    "Perth",
    "Hanoi",
    "Manila",
    "Seoul",
    "Osaka",
    "Milan",
    "Turin",
    "Naples",
    "Hamburg",
    "Munich",
    "Zurich",
    "Geneva",
    "Bergen",
    "Porto",
    "Seville",
    "Krakow",
    "Riga",
    "Tallinn",
    "Sofia",
    "Bogota",
    "Quito",
    "Havana",
    "Dakar",
    "Tunis",
    "Amman",
    "Doha",
    "Dallas",
    "Miami",
    "Austin",
    "Seattle",
    "Montreal",
    "Auckland",
    "Rome",
    "Moscow",
    "Istanbul",
    "Shanghai",
)
HELD_OUT_CITIES = (
    "Rome",
    "Oslo",
    "Tokyo",
    "Dallas",
    "Lisbon",
    "Seoul",
    "Hamburg",
    "Cairo",
    "Denver",
    "Riga",
    "Manila",
    "Quito",
)
CITIES = tuple(city for city in ALL_CITIES if city not in HELD_OUT_CITIES)
WEATHER = ("sunny", "cloudy", "rainy", "windy", "foggy", "snow", "storm", "clear")

ALL_WORDS = tuple(
    """
apple arrow autumn bacon badge baker balloon banana barrel basket beach beacon bottle branch bread breeze bridge bright bronze brother bucket butter
button cabin cactus camera candle canvas carpet carrot castle cattle cellar center cereal chair cherry chicken cinema circle clever clover cobbler
coffee collar comet common copper corner cotton cradle crayon cricket crystal curtain dagger dancer daughter desert dinner doctor dollar dragon drawer
dream eagle earth elbow engine evening fabric falcon family farmer father feather fellow fiddle finger flower forest fossil fountain freedom friend
frozen funnel garden garlic gentle ginger giraffe glacier glove golden goose grape gravel guitar hammer harbor harvest hazel helmet hidden hollow
honey horse hotel hunter iceberg insect iron island ivory jacket jelly jewel jigsaw juice jungle kettle kitchen kitten ladder lagoon lamp lantern
lemon letter lily linen lizard lobster locket lumber magnet mammal mango maple marble market meadow melon mirror mitten monkey morning mother
mountain muffin museum mustard napkin narrow needle noodle number ocean olive onion orange orchard otter oyster paddle palace paper parrot pebble
pencil pepper piano pillow pilot pirate planet pocket pollen potato prairie puddle pumpkin puppet puzzle rabbit raven ribbon river robin rocket
rubber saddle sailor salad salmon sandal saucer school season shadow shelter silver sister spider spoon squirrel station stone story stream street
summer sunset table tailor temple thunder ticket tiger timber tomato trumpet tunnel turtle umbrella valley velvet village violin wagon walnut water
weather whale window winter wizard wonder yellow zebra
""".split()
)
HELD_OUT_WORDS = tuple(
    """
banana barrel bottle butter castle cherry coffee corner cotton dinner dragon engine feather finger flower forest garden ginger hammer harvest jelly
kettle kitten ladder lemon mango mirror needle orange paper pepper pillow planet potato puzzle rabbit river rocket saddle school silver spider
stone summer tomato tunnel window winter yellow
""".split()
)
WORDS = tuple(word for word in ALL_WORDS if word not in HELD_OUT_WORDS)
VOWELS, CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxyz"
TOOL_SYLLABLES = (
    "ka",
    "ro",
    "mi",
    "te",
    "su",
    "la",
    "ve",
    "no",
    "ba",
    "di",
    "fo",
    "gu",
    "pe",
    "ri",
    "sa",
    "to",
    "va",
    "zu",
)
TOOL_PREFIXES = ("run_", "my_", "get_", "do_", "find_", "")
ARGUMENTS = ("query", "key", "name", "value", "item", "text", "id")
RESULTS = ("ok", "done", "error: not found", "yes", "no", "found", "empty", "ready")
